"""AMB-DSGDN as a whole: size, loss, independence of padding, absent features, unlabelled utterances."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from test_train_support import DIMS, TINY, cut, random_batch, rows, tiny_model

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.train.config import load_config
from erc_toolkit.train.layers.modality_dropout import DroppedModalities
from erc_toolkit.train.loop.evaluation import build_model


def count(module):
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    "recipe, dims, speakers, classes, total, parts",
    [
        ("iemocap", (1024, 1582, 342), 2, 6, 13_133_234, (1_536, 524_800, 810_496, 175_616, 9_234)),
        ("meld", (1024, 300, 342), 9, 7, 12_481_973, (5_120, 524_800, 154_112, 175_616, 10_773)),
    ],
)
def test_parameter_counts_are_the_published_ones(recipe, dims, speakers, classes, total, parts):
    dims = dict(zip(("text", "audio", "visual"), dims, strict=True))
    model = build_model(load_config(recipe), dims, speakers, np.ones(classes, int))
    assert count(model) == total
    projections = [count(model.streams[m].projection) for m in dims]
    assert (count(model.speaker), *projections, count(model.heads)) == parts
    assert model.streams["text"].encoder is None and model.streams["text"].gate is None
    assert sum(count(model.streams[m].encoder) for m in ("audio", "visual")) == 3_155_968
    assert sum(count(model.streams[m].gate) for m in ("audio", "visual")) == 525_312
    assert sum(count(s.inter) + count(s.intra) for s in model.streams.values()) == 7_930_272
    assert total - sum(p.numel() for p in model.parameters() if p.requires_grad) == 2_048  # the unused norms


@pytest.mark.parametrize("absent", [0.0, 0.4])
def test_logits_of_a_dialogue_do_not_depend_on_the_batch(absent):
    model, lengths = tiny_model(), (5, 9, 1, 3)
    batch = random_batch(lengths, absent=absent, seed=4)
    together = model(batch).logits
    for number in range(len(lengths)):
        alone = model(cut(batch, number)).logits
        assert torch.allclose(alone, together[rows(batch, number)], atol=1e-10)


def test_logits_are_the_sum_of_the_modalities_when_all_are_present():
    batch = random_batch()
    output = tiny_model()(batch)
    assert torch.allclose(output.logits, sum(output.unimodal.values()))
    assert output.learnable.all() and output.ratios is None


def test_fusion_weights_the_modalities():
    weights = {"text": 0.8, "visual": 0.1, "audio": 0.3}
    model, batch = tiny_model(config=dataclasses.replace(TINY, fusion=weights)), random_batch(absent=0.3)
    output = model(batch)
    for row in range(len(batch.labels)):
        there = [m for m in DIMS if batch.present[m][row]]
        expected = sum(weights[m] * output.unimodal[m][row] for m in there) if there else model.log_prior
        assert torch.allclose(output.logits[row], expected)
    assert {*model.state_dict()} == {*tiny_model().state_dict()}
    with pytest.raises(UserError, match=r"model\.fusion .*audio"):
        tiny_model(config=dataclasses.replace(TINY, fusion={"text": 1.0, "visual": 1.0}))


@pytest.mark.parametrize("graph", ["attention", "convolution", "none"])
def test_graph_blocks_can_be_replaced_or_omitted(graph):
    model, batch = tiny_model(config=dataclasses.replace(TINY, graph=graph)), random_batch((6, 3), absent=0.2)
    output = model.train()(batch)
    model.loss(output, batch).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    model.eval()
    before = model.represent(batch)
    batch.features["text"][5] += 1  # the last of the first dialogue; with a graph, the first two attend to it
    after = model.represent(batch)
    changed = (before["text"] != after["text"]).any(1)
    assert changed[5] and not changed[6:].any() and changed[:5].any() == (graph != "none")
    assert count(model.streams["text"]) < count(tiny_model().streams["text"])


def test_streams_apply_encoder_inter_intra_and_gate_in_this_order():
    model, batch = tiny_model(), random_batch((4,), seed=1)
    from erc_toolkit.train.layers.sequences.encoder import WholeDialogueAttention, sinusoidal_positions
    from erc_toolkit.train.layers.subgraphs.graph import speaker_graphs

    inter, intra = speaker_graphs(batch.speakers, batch.dialogue, TINY.window, 4)
    nodes = model.represent(batch)
    text = model.streams["text"]
    assert torch.allclose(nodes["text"], text.intra(text.inter(text.projection(batch.features["text"]), inter), intra))
    audio = model.streams["audio"]
    added = sinusoidal_positions(4, TINY.hidden, model.speaker.weight) + model.speaker(batch.speakers)
    attend = WholeDialogueAttention(batch.packing).attend
    x = audio.encoder(audio.projection(batch.features["audio"]), added, attend, batch.present["audio"])
    x = audio.intra(audio.inter(x, inter), intra)
    assert torch.allclose(nodes["audio"], torch.sigmoid(audio.gate(x)) * x)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)])
def test_loss_equals_a_sum_over_utterances(weights):
    model = tiny_model(weights=weights)
    batch = random_batch((6, 4, 2), absent=0.3, unlabelled=0.3, seed=7)
    output = model(batch)

    def mean(logits, present):
        total = norm = 0.0
        for i in np.flatnonzero((present & (batch.labels >= 0)).numpy()):
            y = int(batch.labels[i])
            w = 1.0 if weights is None else float(weights[y])
            z = logits[i].tolist()
            total += w * (math.log(sum(map(math.exp, z))) - z[y])
            norm += w
        return total / norm

    anything = torch.stack(list(batch.present.values())).any(0)
    expected = mean(output.logits, anything)
    expected += sum(mean(z, batch.present[m]) ** 2 / 10 for m, z in output.unimodal.items())
    assert model.loss(output, batch).item() == pytest.approx(expected, rel=1e-9)


def test_loss_of_a_batch_without_labels_is_zero_and_harmless():
    model, batch = tiny_model(), random_batch(unlabelled=1.1)
    loss = model.loss(model(batch), batch)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or (p.grad == 0).all() for p in model.parameters())


def test_an_absent_feature_has_no_influence():
    model = tiny_model()
    batch = random_batch((6, 4), seed=2)
    batch.present["audio"][2] = False
    other = copy.deepcopy(batch)
    other.features["audio"][2] = 100.0  # the values of an absent row must not matter
    a, b = model(batch), model(other)
    assert torch.equal(a.logits, b.logits)
    assert torch.equal(model.loss(a, batch), model.loss(b, other))
    rest = a.unimodal["text"] + a.unimodal["visual"]
    assert torch.allclose(a.logits[2], rest[2])  # its logits are not in the sum
    everything = model(random_batch((6, 4), seed=2))
    neighbour = (everything.logits - a.logits).abs().sum(-1)
    assert (neighbour[[1, 3]] > 1e-9).all() and (neighbour[6:] == 0).all()  # it was a neighbour before


def test_an_utterance_without_any_modality_has_the_training_prior_and_no_loss():
    model = tiny_model(counts=(6, 3, 0))
    batch = random_batch((4, 3), seed=3)
    for present in batch.present.values():
        present[1] = False
    output = model(batch)
    probabilities = output.logits[1].softmax(-1)
    assert probabilities.tolist() == pytest.approx([2 / 3, 1 / 3, 0], abs=1e-6)
    before = model.loss(output, batch)
    batch.labels[1] = (batch.labels[1] + 1) % 3
    assert torch.equal(model.loss(output, batch), before)


@pytest.mark.parametrize("modality", ["text", "audio", "visual"])
def test_one_modality_alone_works_and_is_never_dropped(modality):
    config = dataclasses.replace(TINY, p_exe=1.0)
    model = tiny_model({modality: DIMS[modality]}, config).train()
    batch = random_batch(dims={modality: DIMS[modality]})
    output = model(batch)
    assert output.ratios is None and torch.equal(output.logits, output.unimodal[modality])
    assert (model.speaker is None) == (modality == "text")
    model.loss(output, batch).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_unlabelled_utterances_are_context_but_not_trained_on():
    model = tiny_model()
    batch = random_batch((5, 5), seed=5)
    batch.labels[2] = -1
    logits = model(batch).logits
    full = random_batch((5, 5), seed=5)
    assert torch.equal(logits, model(full).logits)  # still attended to
    labels = batch.labels.clone()
    output = model(batch)
    (gradient,) = torch.autograd.grad(model.loss(output, batch), output.logits, retain_graph=True)
    assert (gradient[2] == 0).all() and (gradient[labels >= 0] != 0).any(-1).all()


def test_modality_dropout_starts_at_its_epoch_and_only_in_training():
    config = dataclasses.replace(TINY, p_exe=1.0, dropout_warm_up=2)
    model, batch = tiny_model(config=config), random_batch((6, 5, 4))
    assert model(batch, epoch=5).ratios is None  # evaluation
    model.train()
    assert model(batch, epoch=1).ratios is None
    assert model(batch, epoch=2).ratios.shape == (3,)
    never = tiny_model(config=dataclasses.replace(config, p_exe=0.0)).train()
    assert all(never(batch, epoch=9).ratios is None for _ in range(5))


def test_modality_dropout_zeroes_whole_dialogues_and_excludes_those_that_lose_all_from_the_loss(monkeypatch):
    config = dataclasses.replace(TINY, p_exe=1.0, dropout=0.0, graph_dropout=0.0)
    model, batch = tiny_model(config=config).train(), random_batch((4, 4, 4), seed=8)
    kept = torch.tensor([[True, False, False], [True, True, False], [False, True, False]])  # text, audio, visual
    monkeypatch.setattr(
        "erc_toolkit.train.models.subgraphs.amb_dsgdn.drop_modalities",
        lambda ratios, n: DroppedModalities(kept.double() / 0.8, kept, ratios),
    )
    nodes, output = model.represent(batch), model(batch)
    for index, modality in enumerate(DIMS):
        bias, head = model.heads[modality].bias, model.heads[modality]
        for dialogue in range(3):
            part = rows(batch, dialogue)
            expected = head((nodes[modality][part] / 0.8).relu()) if kept[index, dialogue] else bias.expand(4, 3)
            assert torch.allclose(output.unimodal[modality][part], expected)
    assert output.learnable.tolist() == [True] * 8 + [False] * 4
    loss = model.loss(output, batch)
    batch.labels[8:] = (batch.labels[8:] + 1) % 3
    assert torch.equal(model.loss(output, batch), loss)
    batch.labels[4:8] = (batch.labels[4:8] + 1) % 3
    assert not torch.equal(model.loss(output, batch), loss)


def test_an_utterance_whose_only_modality_is_dropped_is_excluded_from_the_loss(monkeypatch):
    model, batch = tiny_model(config=dataclasses.replace(TINY, p_exe=1.0)).train(), random_batch((4,))
    batch.present["audio"][1] = batch.present["visual"][1] = False
    kept = torch.tensor([[False], [True], [True]])
    monkeypatch.setattr(
        "erc_toolkit.train.models.subgraphs.amb_dsgdn.drop_modalities",
        lambda ratios, n: DroppedModalities(kept.double(), kept, ratios),
    )
    assert model(batch).learnable.tolist() == [True, False, True, True]


def test_balance_metric_excludes_absent_and_unlabelled_utterances(monkeypatch):
    seen = []
    model, batch = (
        tiny_model(config=dataclasses.replace(TINY, p_exe=1.0)).train(),
        random_batch((6, 3), absent=0.3, unlabelled=0.3),
    )

    def spy(predicted, labels, counted, classes):
        seen.append(counted)
        return torch.tensor(0.5)

    monkeypatch.setattr("erc_toolkit.train.models.subgraphs.amb_dsgdn.weighted_f1", spy)
    model(batch)
    for counted, present in zip(seen, batch.present.values(), strict=True):
        assert torch.equal(counted, present & (batch.labels >= 0))
    assert len(seen) == 3


@pytest.mark.parametrize(("window", "encoder_window"), [(3, 4), (0, 0), (40, 7)])
def test_long_dialogues_in_pieces_equal_the_whole(monkeypatch, window, encoder_window):
    model = tiny_model(config=dataclasses.replace(TINY, window=window, encoder_window=encoder_window))
    batch = random_batch((150, 3, 90, 1, 1, 60), absent=0.2)
    with torch.no_grad():
        whole = model.represent(batch)
        seen = []
        monkeypatch.setattr("erc_toolkit.train.models.subgraphs.amb_dsgdn.PIECE", 32)
        original = model._represent
        monkeypatch.setattr(model, "_represent", lambda part: seen.append(len(part.labels)) or original(part))
        pieces = model.represent(batch)
    assert len(seen) == math.ceil(305 / 32) and max(seen) <= 32 + 2 * model._reach(encoder_window)
    for modality, x in whole.items():
        rows = batch.present[modality]
        assert torch.allclose(pieces[modality][rows], x[rows], atol=1e-9)
    assert len(model.represent(batch)) == 3 and len(seen) == 11  # with gradients it is one piece


def test_rows_of_a_batch_are_a_batch():
    batch = random_batch((4, 1, 6, 2))
    for start in range(13):
        for end in range(start + 1, 14):
            part = batch.rows(start, end)
            lengths = part.offsets.diff()
            assert (lengths > 0).all() and part.offsets[0] == 0 and part.offsets[-1] == end - start
            assert torch.equal(part.dialogue, torch.arange(len(part)).repeat_interleave(lengths))
            assert torch.equal(part.features["text"], batch.features["text"][start:end])
            same = batch.dialogue[start:end]
            assert torch.equal(part.dialogue[:, None] == part.dialogue, same[:, None] == same)
            assert torch.equal(part.place, batch.place[start:end]) and part.longest == int(lengths.max())
            assert part.places == (int(part.place.min()), int(part.place.max()) + 1)


@pytest.mark.parametrize("rows, dialogues, longest", [(13, 4, 6), (20, 6, 7), (16, 9, 8)])
def test_a_padded_batch_is_a_batch(rows, dialogues, longest):
    batch = random_batch((4, 1, 6, 2), absent=0.2, unlabelled=0.2)
    wide = batch.padded(rows, dialogues, longest)
    dialogue, place = (torch.cat(parts) for parts in zip(*places_of(wide.offsets), strict=True))
    assert torch.equal(wide.dialogue, dialogue) and torch.equal(wide.place, place) and wide.longest == longest
    assert len(wide) == dialogues and wide.offsets[-1] == rows and (wide.offsets.diff() <= longest).all()
    assert (wide.labels[13:] == -1).all() and not any(x[13:].any() for x in wide.present.values())
    for name in ("speakers", "labels"):
        assert torch.equal(getattr(wide, name)[:13], getattr(batch, name))
    assert all(torch.equal(x[:13], batch.features[m]) and not x[13:].any() for m, x in wide.features.items())


def places_of(offsets):
    """Dialogue and position of every row, dialogue by dialogue."""
    for number, length in enumerate(offsets.diff().tolist()):
        yield torch.full((length,), number), torch.arange(length)


@pytest.mark.parametrize("rows, dialogues, longest", [(12, 4, 6), (13, 3, 6), (13, 4, 5), (20, 5, 6), (20, 4, 9)])
def test_a_batch_that_does_not_fit(rows, dialogues, longest):
    with pytest.raises(ValueError):
        random_batch((4, 1, 6, 2)).padded(rows, dialogues, longest)


def test_speaker_table_has_a_zero_row_that_stays_zero():
    model, batch = tiny_model().train(), random_batch()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.1)
    model.loss(model(batch), batch).backward()
    optimizer.step()
    assert model.speaker.weight.shape == (3, 16) and (model.speaker.weight[2] == 0).all()


def test_graph_window_zero_and_long_dialogues():
    model = tiny_model(config=dataclasses.replace(TINY, window=0))
    assert model(random_batch((700,), dims=DIMS)).logits.isfinite().all()


@pytest.mark.parametrize("encoder_window", [None, 3])
@pytest.mark.parametrize("absent", [0.0, 0.4])
def test_a_causal_model_does_not_attend_to_the_future(encoder_window, absent):
    """The prediction for an utterance is that for the dialogue up to it; without `causal` it is not."""
    model = tiny_model(config=dataclasses.replace(TINY, causal=True, encoder_window=encoder_window))
    both_ways = tiny_model(config=dataclasses.replace(TINY, encoder_window=encoder_window))
    batch = random_batch((7,), absent=absent, seed=3)
    whole, differs = model(batch).logits, 0
    for end in range(1, 8):
        assert torch.allclose(model(batch.rows(0, end)).logits, whole[:end], atol=1e-10)
        differs += not torch.allclose(both_ways(batch.rows(0, end)).logits, both_ways(batch).logits[:end], atol=1e-10)
    assert differs >= 3
    features = {m: x.requires_grad_() for m, x in batch.features.items()}
    gradients = torch.autograd.grad(model(batch).logits[3].sum(), list(features.values()), allow_unused=True)
    assert all((g[4:] == 0).all() for g in gradients) and any(g[:4].abs().sum() > 0 for g in gradients)
