"""The reconstruction of MERC-GCN: its graph against a slow reference, its coarse groups, and absent modalities."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train_support import DIMS, packing, random_batch

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.train.config import load_config
from erc_toolkit.train.layers.losses import weighted_loss
from erc_toolkit.train.layers.sequences.cross_attention import CoAttention
from erc_toolkit.train.layers.sequences.encoder import WholeDialogueAttention, dialogue_positions, sinusoidal_positions
from erc_toolkit.train.layers.subgraphs.adaptive_graph import (
    KINDS,
    EdgeWeights,
    KindConvolution,
    WeightedConvolution,
    edge_kinds,
)
from erc_toolkit.train.models.graphs.merc_gcn import MERCGCN, Settings
from erc_toolkit.train.packing import Packing

SELF, OWN_PAST, OWN_FUTURE, OTHERS_PAST, OTHERS_FUTURE = range(KINDS)


def small(dims=DIMS, classes=3, weights=None, **changes):
    torch.manual_seed(0)
    config = Settings(**{"hidden": 16, "graph_hidden": 8, "heads": 2, "window": 3, "dropout": 0.0} | changes)
    return MERCGCN(config, dims, 2, torch.ones(classes), weights).double().eval()


def kind(i, j, speakers):
    """The kind of edge from utterance i to utterance j of its dialogue."""
    if i == j:
        return SELF
    if speakers[i] == speakers[j]:
        return OWN_PAST if j < i else OWN_FUTURE
    return OTHERS_PAST if j < i else OTHERS_FUTURE


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4), window=st.integers(0, 33), seed=st.integers(0, 999)
)
def test_convolutions_are_sums_over_neighbours(lengths, window, seed):
    """Both layers and the weights of the edges, node by node and edge by edge."""
    torch.manual_seed(seed)
    dialogue, offsets = packing(lengths)
    x, speakers = torch.randn(sum(lengths), 6).double(), torch.randint(3, (sum(lengths),))
    by_weight, by_kind, plain = (
        EdgeWeights(6).double(),
        KindConvolution(6, 4).double(),
        WeightedConvolution(4, 5).double(),
    )
    torch.nn.init.normal_(by_kind.bias)
    kinds, blocks = edge_kinds(speakers, dialogue, window, max(lengths))
    weights = by_weight(x, kinds, blocks)
    first = by_kind(x, weights, kinds, blocks)
    second = plain(first, weights, blocks)
    matrices = by_kind.linear.weight.unflatten(0, (KINDS, 4))
    for i in range(len(x)):
        begin, end = offsets[dialogue[i] : dialogue[i] + 2].tolist()
        near = [j for j in range(begin, end) if abs(i - j) <= window]
        alpha = torch.stack([x[i] @ by_weight.bilinear.weight.T @ x[j] for j in near]).softmax(0)
        expected = (
            sum(a * (matrices[kind(i, j, speakers)] @ x[j]) for a, j in zip(alpha, near, strict=True)) + by_kind.bias
        )
        torch.testing.assert_close(first[i], expected)
        expected = plain.own(first[i]) + sum(
            a * (plain.others.weight @ first[j]) for a, j in zip(alpha, near, strict=True)
        )
        torch.testing.assert_close(second[i], expected)


def test_the_graph_is_directed():
    torch.manual_seed(0)
    dialogue, _ = packing([2])
    kinds, blocks = edge_kinds(torch.tensor([0, 1]), dialogue, 1, 2)
    weights = EdgeWeights(4)(torch.randn(2, 4), kinds, blocks)
    there, back = weights[0, 0, 2], weights[0, 1, 1]  # utterance 0 is in column 1, after the padding
    assert there > 0 and back > 0 and not torch.isclose(there, back)


def test_co_attention_uses_the_other_streams_previous_state():
    torch.manual_seed(0)
    layer = CoAttention(8, 2, 2, 0.0).double()
    x, y = torch.randn(7, 8).double(), torch.randn(7, 8).double()
    _, offsets = packing([4, 3])
    attend, present = WholeDialogueAttention(Packing.of(offsets, x.device)).attend, torch.ones(7, dtype=torch.bool)
    a, b = layer(x, y, attend, present, present)
    for first, second in zip(layer.first, layer.second, strict=True):
        x_before = x
        x = first(x, y, attend, present)
        y = second(y, x_before, attend, present)
    torch.testing.assert_close((a, b), (x, y))
    # Normalised after the last residual: with weights of 1 and biases of 0, every row has mean 0 and variance 1.
    torch.testing.assert_close(a.mean(1), torch.zeros(7).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(a.var(1, unbiased=False), torch.ones(7).double(), atol=1e-4, rtol=0)


def test_positions_restart_in_every_dialogue():
    _, offsets = packing([3, 1, 4])
    codes = sinusoidal_positions(4, 6, torch.empty(0).double())
    expected = torch.cat([codes[:3], codes[:1], codes])
    assert torch.equal(
        dialogue_positions(Packing.of(offsets, torch.device("cpu")), 6, torch.empty(0).double()), expected
    )


def test_loss_is_fine_plus_weighted_coarse():
    class_weights = torch.tensor([1.0, 2.0, 0.5, 1.5], dtype=torch.float64)
    model = small(classes=4, weights=class_weights, coarse=[0, -1, 1, 1], coarse_weight=0.25)
    batch = random_batch((5, 6), classes=4, unlabelled=0.2)
    output = model(batch)
    assert output.parts["coarse"].shape == (11, 2)
    groups = torch.tensor([{0: 0, 1: -1, 2: 1, 3: 1, -1: -1}[int(y)] for y in batch.labels])
    assert (groups >= 0).sum() < (batch.labels >= 0).sum()
    expected = weighted_loss(output.logits, batch.labels, class_weights) + 0.25 * weighted_loss(
        output.parts["coarse"], groups
    )
    torch.testing.assert_close(model.loss(output, batch), expected)


def test_without_groups_there_is_no_coarse_classifier():
    model, batch = small(), random_batch((5, 6))
    output = model(batch)
    assert model.coarse is None and not output.parts
    torch.testing.assert_close(model.loss(output, batch), weighted_loss(output.logits, batch.labels))


def test_recipes_group_the_classes_of_their_corpora():
    """Classes in the order of these corpora's stores, as in the manifests."""
    groups = {}
    for corpus, classes in (
        ("iemocap", "happy sad neutral angry excited frustrated"),
        ("meld", "neutral surprise fear sadness joy disgust anger"),
    ):
        of = dict(zip(classes.split(), load_config(f"merc-gcn-{corpus}").model.coarse, strict=True))
        groups[corpus] = {frozenset(c for c in of if of[c] == g) for g in set(of.values())}
    negative = frozenset({"sad", "angry", "frustrated"})
    assert groups["iemocap"] == {frozenset({"happy", "excited"}), frozenset({"neutral"}), negative}
    negative = frozenset({"fear", "sadness", "disgust", "anger"})
    assert groups["meld"] == {frozenset({"joy"}), frozenset({"neutral"}), negative, frozenset({"surprise"})}
    assert load_config("merc-gcn-meld").model.coarse[1] == -1
    assert load_config("merc-gcn-demo").model.coarse == load_config("merc-gcn-meld").model.coarse


@pytest.mark.parametrize(
    "value, message",
    [
        ("[0, 0, 0]", r"model\.coarse.*from 0"),
        ("[0, 2, 2]", r"model\.coarse.*from 0"),
        ("[-2, 0, 1]", r"model\.coarse.*from 0"),
        ("[0, 1.5]", r"model\.coarse is .*list of whole numbers or null"),
        ("[0, true]", r"model\.coarse is .*list of whole numbers or null"),
        ("positive", r"model\.coarse is .*list of whole numbers or null"),
    ],
)
def test_invalid_groups(value, message):
    with pytest.raises(UserError, match=message):
        load_config("merc-gcn-demo", [f"model.coarse={value}"])


def test_groups_for_another_number_of_classes():
    with pytest.raises(UserError, match=r"model\.coarse has 6 .*3$"):
        small(coarse=load_config("merc-gcn-iemocap").model.coarse)


def test_groups_can_be_disabled_with_set():
    assert load_config("merc-gcn-demo", ["model.coarse=null"]).model.coarse is None


def test_one_modality_has_no_pairs_and_three_have_three():
    assert [len(small(dict(list(DIMS.items())[:n])).pairs) for n in (1, 2, 3)] == [0, 1, 3]


def test_the_values_of_an_absent_feature_have_no_influence():
    model, batch = small(), random_batch((4, 3), seed=3)
    batch.present["audio"][2] = False
    before = model(batch).logits
    batch.features["audio"][2] += 100
    torch.testing.assert_close(model(batch).logits, before)


def test_recipes_have_the_documented_number_of_parameters():
    with torch.device("meta"):
        for corpus, audio, classes, count in (("iemocap", 1582, 6, 4_826_609), ("meld", 300, 7, 4_570_310)):
            dims = {"text": 1024, "audio": audio, "visual": 342}
            model = MERCGCN(load_config(f"merc-gcn-{corpus}").model, dims, 2, torch.ones(classes))
            assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count
