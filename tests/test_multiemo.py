"""MultiEMO against results of the authors' public code, and its losses against readable implementations.

`data/multiemo.npz` holds two cases in evaluation mode: "iemocap" (all recurrences, two directions), whose dialogues of
different lengths went through their code one by one, because it has no padding mask, and whose losses are over all of
them; "meld" (no recurrence for the text, one direction), whose dialogues of equal length went through it as one batch.
Every weight that their forward pass uses, as in `test_dialoguernn.py`, attention heads joined. It ran in float64,
including the sample weights; weights and gradients are stored in float32.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dialoguernn import TOLERANCE, case_batch, check_gradients, put_weights, read_case
from test_train_support import DIMS, cut, random_batch, rows

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.train.config import load_config
from erc_toolkit.train.layers.contrastive import focal_contrastive_loss, sample_weights
from erc_toolkit.train.layers.soft_hgr import soft_hgr_loss
from erc_toolkit.train.loop.evaluation import build_model
from erc_toolkit.train.models.sequences.multiemo import MultiEMO, Settings


def author_model(case, **changes):
    """Our model with the authors' sizes, loss settings and weights."""
    sizes = {name: int(case[name]) for name in ("hidden", "layers", "heads", "inner", "head")}
    names = ("contrastive", "correlation", "cross_entropy", "temperature", "gamma", "rho")
    config = Settings(**sizes, **{**dict(zip(names, case["loss_settings"].tolist(), strict=True)), **changes})
    dims = dict(zip(DIMS, case["dims"].tolist(), strict=True))
    model = MultiEMO(config, dims, int(case["speaker_slots"]), case["class_counts"]).double().eval()
    model.sample_weights = sample_weights(case["class_counts"].double(), config.rho)
    put_weights(model, case["weights"])
    return model


@pytest.mark.parametrize("name", ["iemocap", "meld"])
def test_logits_losses_and_gradients_equal_the_authors(name):
    case = read_case("multiemo.npz", name)
    shape = {"recurrent_text": name == "iemocap", "bidirectional": name == "iemocap"}
    model, batch = author_model(case, **shape), case_batch(case)
    output = model(batch)
    torch.testing.assert_close(output.logits, case["logits"], **TOLERANCE)
    for term, expected in zip(("contrastive", "correlation", "cross_entropy"), case["losses"], strict=True):
        weights = {**dict.fromkeys(("contrastive", "correlation", "cross_entropy"), 0.0), term: 1.0}
        torch.testing.assert_close(author_model(case, **shape, **weights).loss(output, batch), expected, **TOLERANCE)
    loss = model.loss(output, batch)
    torch.testing.assert_close(loss, case["loss"], **TOLERANCE)
    loss.backward()
    check_gradients(model, case["gradients"])


@pytest.mark.parametrize(
    # Published: 29,670,918 and 17,097,479, features of 768, 512 and 1000. Their model for MELD has, but never uses, the
    # text's recurrence (3,286,784) and the other two's backward directions with the maps that join them (3,418,112).
    "corpus, speakers, classes, expected",
    [("iemocap", 2, 6, 29_670_918), ("meld", 9, 7, 17_097_479 - 3_286_784 - 3_418_112)],
)
def test_number_of_parameters_is_the_published_one(corpus, speakers, classes, expected):
    dims = {"text": 768, "audio": 512, "visual": 1000}
    with torch.device("meta"):
        model = build_model(load_config(f"multiemo-{corpus}"), dims, speakers, np.ones(classes))
    assert sum(p.numel() for p in model.parameters()) == expected
    assert expected == {"iemocap": 29_670_918, "meld": 10_392_583}[corpus]


def slow_contrastive(x, labels, weights, temperature, gamma):
    """The contrastive loss pair by pair."""
    counted = [i for i, y in enumerate(labels.tolist()) if y >= 0]
    x, total = x / x.norm(dim=1, keepdim=True), x.new_zeros(())
    for i in counted:
        others = [j for j in counted if j != i]
        if not any(labels[j] == labels[i] for j in others):
            continue
        p = torch.stack([x[i] @ x[j] / temperature for j in others]).softmax(0)
        terms = [-((1 - p[k]) ** gamma) * p[k].log() for k, j in enumerate(others) if labels[j] == labels[i]]
        total = total + weights[labels[i]] * sum(terms) / len(terms)
    return total / max(len(counted), 1)


def slow_correlation(streams, counted):
    """The correlation loss with covariance matrices of utterances."""
    total = streams[0].new_zeros(())
    for i in range(len(streams)):
        for j in range(i):
            common = counted[i] & counted[j]
            n = int(common.sum())
            if n == 0:
                continue
            x, y = streams[i][common], streams[j][common]
            shared = (x * y).sum(1).mean()
            total = total - (shared - torch.trace(torch.cov(x).view(n, n) @ torch.cov(y).view(n, n)) / n / 2) / n
    return total


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 12),
    seed=st.integers(0, 10_000),
    temperature=st.sampled_from([0.05, 0.8]),
    gamma=st.sampled_from([0.0, 0.5, 2.4]),
)
def test_losses_equal_the_readable_implementations(n, seed, temperature, gamma):
    generator = torch.Generator().manual_seed(seed)
    x = [torch.randn(n, 5, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(3)]
    labels = torch.randint(-1, 3, (n,), generator=generator)
    counted = [(torch.rand(n, generator=generator) < 0.7) & (labels >= 0) for _ in x]
    weights = sample_weights(torch.tensor([5.0, 2.0, 1.0], dtype=torch.float64), 1.1)
    ours = focal_contrastive_loss(x[0], labels, weights, temperature, gamma)
    torch.testing.assert_close(ours, slow_contrastive(x[0], labels, weights, temperature, gamma), rtol=1e-8, atol=1e-10)
    correlation = soft_hgr_loss(x, counted)
    torch.testing.assert_close(correlation, slow_correlation(x, counted), rtol=1e-9, atol=1e-11)
    (ours + correlation).backward()
    assert all(stream.grad.isfinite().all() for stream in x)


def test_sample_weights_are_over_the_classes_with_examples():
    weights = sample_weights(torch.tensor([6.0, 0.0, 3.0], dtype=torch.float64), 2.0)
    torch.testing.assert_close(weights, torch.tensor([0.2, 0.0, 0.8], dtype=torch.float64))


def small_model(dims=DIMS, **changes):
    torch.manual_seed(0)
    return (
        MultiEMO(Settings(hidden=8, layers=2, heads=2, inner=10, head=8, **changes), dims, 2, torch.ones(3))
        .double()
        .eval()
    )


def test_the_loss_depends_on_the_batch_and_the_logits_do_not():
    model, batch = small_model(), random_batch((5, 3), seed=1)
    together, alone = model(batch), [cut(batch, 0), cut(batch, 1)]
    for number, part in enumerate(alone):
        assert torch.allclose(model(part).logits, together.logits[rows(batch, number)], atol=1e-12)
    apart = sum(len(part.labels) * model.loss(model(part), part) for part in alone) / len(batch.labels)
    assert abs(float((model.loss(together, batch) - apart).detach())) > 1e-4


def test_no_other_modality_attends_to_an_absent_feature():
    """With one direction and no text recurrence, the last utterance's audio reaches others only by cross-attention."""
    batch = random_batch((4,), seed=2)
    model = small_model(bidirectional=False)
    before = model(batch)
    batch.present["audio"][3] = False
    batch.features["audio"][3] = 0.0
    absent = model(batch)
    assert not torch.allclose(before.parts["text"], absent.parts["text"])
    batch.features["audio"][3] = 5.0  # a value that must have no influence, because it is absent
    assert torch.equal(absent.parts["text"], model(batch).parts["text"])


def test_absent_features_are_excluded_from_the_correlation():
    model, batch = small_model(contrastive=0.0, cross_entropy=0.0), random_batch((4,), seed=2)
    batch.present["audio"][:] = False
    batch.present["visual"][:] = False
    output = model(batch)
    assert float(model.loss(output, batch).detach()) == 0
    batch.present["visual"][1] = True
    assert float(model.loss(output, batch).detach()) != 0


def test_text_alone_without_recurrence_has_no_context():
    model, batch = small_model({"text": 12}, recurrent_text=False), random_batch((4, 2), {"text": 12})
    before = model(batch).logits
    batch.features["text"][0] += 1
    moved = (model(batch).logits - before).abs().amax(1) > 1e-12
    assert moved.tolist() == [True, False, False, False, False, False]


def test_heads_divide_the_width():
    with pytest.raises(UserError, match="model.hidden=250 must be a multiple of model.heads=4"):
        load_config("multiemo-demo", ["model.hidden=250", "model.heads=4"])
