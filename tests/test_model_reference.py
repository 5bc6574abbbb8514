"""AMB-DSGDN in both variants against a slow reference written from the equations, dialogue by dialogue."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_train_support import random_batch, rows, tiny_model

from erc_toolkit.train.models.subgraphs.amb_dsgdn import Settings
from erc_toolkit.train.models.subgraphs.amb_dsgdn_variants import VARIANTS

SMALL = Settings(hidden=8, heads=2, dropout=0.0, graph_dropout=0.0, p_exe=1.0, dropout_warm_up=1)


def layer_norm(x, weight, bias, eps):
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + eps) * weight + bias


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def edges(speakers, window, intra, present):
    """Equations 7 (intra) and 8 (inter): for each utterance a list of (neighbour, relation), without absent ones."""
    n, found = len(speakers), []
    for i in range(n):
        row = []
        for j in range(n):
            same, near = speakers[i] == speakers[j], abs(i - j) <= window and present[j]
            if i == j:
                row.append((j, 1))
            elif intra and near and same:
                row.append((j, 2 if i > j else 3))
            elif not intra and near and not same:
                row.append((j, 4 if i < j else 5))
        found.append(row)
    return found


def attention(p, name, x, graph, released):
    """Equations 9 to 17 of one dialogue and one head; `p` contains the parameters of that head."""
    wh = x @ p[name + "weight"]  # 9
    half = wh.shape[1] // 2
    branches = [wh[:, :half], wh[:, half:]]
    q = [h @ p[name + "left"][s] for s, h in enumerate(branches)]  # 10
    k = [h @ p[name + "right"][s] for s, h in enumerate(branches)]
    rel = [p[name + "relation"] @ p[name + "relation_score"][s] for s in (0, 1)]
    lambdas = [torch.exp((p[name + "lambda_left"][s] * p[name + "lambda_right"][s]).sum()) for s in (0, 1)]  # 13
    lambda_full = lambdas[0] - lambdas[1] + 0.8 - 0.6 * math.exp(-0.3)  # 14
    values = torch.cat(branches, 1)  # 11 and 16
    outputs = []
    for i, row in enumerate(graph):
        neighbours, relations = [j for j, _ in row], [r for _, r in row]
        alpha = []
        for s in (0, 1):
            e = q[s][i] + k[s][neighbours] + rel[s][relations]  # 12
            e = torch.where(e > 0, e, 0.2 * e)
            alpha.append(torch.exp(e - e.max()) / torch.exp(e - e.max()).sum())
        outputs.append((alpha[0] - lambda_full * alpha[1]) @ values[neighbours])  # 15 and 17
    out = torch.stack(outputs)
    if released:
        scaled = layer_norm(out, p[name + "norm_weight"], p[name + "norm_bias"], 1e-5) * (0.2 + 0.6 * math.exp(-0.3))
        out = gelu(scaled)
    return out


def head(p, name, number):
    """Parameters of one head of an attention layer."""
    own = {n.removeprefix(name): x for n, x in p.items() if n.startswith(name)}
    return {n: x[:, number] if n == "weight" else x[number] for n, x in own.items()}


def block(p, name, x, graph, released):
    """Equation 18 and the sentence below it."""
    heads = [attention(head(p, f"{name}heads.", h), "", x, graph, released) for h in (0, 1)]
    y = attention(head(p, f"{name}output.", 0), "", torch.cat(heads, 1), graph, released)
    y = (gelu(y) if released else y) @ p[name + "linear.weight"].T + p[name + "linear.bias"]
    return layer_norm(x + y, p[name + "norm.weight"], p[name + "norm.bias"], 1e-5)


def encoder(p, name, x, speaker, heads, present):
    """Equations 2 to 6 of one dialogue; absent features are not keys, unless there is nothing else."""

    def linear(layer, z):
        return z @ p[f"{name}{layer}.weight"].T + p[f"{name}{layer}.bias"]

    n, size = x.shape
    code = torch.zeros_like(x)
    for pos in range(n):
        for j in range(size // 2):
            angle = pos / 10000 ** (2 * j / size)
            code[pos, 2 * j], code[pos, 2 * j + 1] = math.sin(angle), math.cos(angle)  # 2
    x = x + code + speaker  # 3
    q, k, v = linear("query", x), linear("key", x), linear("value", x)
    outputs, width = [], size // heads
    keys = [j for j in range(n) if present[j] or not any(present)]
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        outputs.append(torch.softmax(q[:, part] @ k[keys, part].T / math.sqrt(width), 1) @ v[keys, part])  # 4
    x = x + linear("output", torch.cat(outputs, 1))
    z = linear("inner", layer_norm(x, p[name + "norm.weight"], p[name + "norm.bias"], 1e-6))
    z = 0.5 * z * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    return linear("outer", z) + x  # 5


def nodes_of_dialogue(model, features, speakers, present):
    """Node representations of one dialogue (equations 1 to 18), modality to [n, hidden]."""
    p, released = dict(model.named_parameters()), model.settings.variant == "released"
    who = speakers.tolist()
    result = {}
    for m, f in features.items():
        name = f"streams.{m}."
        available = present[m].tolist()
        inter, intra = (edges(who, model.settings.window, kind, available) for kind in (False, True))
        x = f @ p[name + "projection.weight"].T + p[name + "projection.bias"]  # 1
        if m != "text":
            x = encoder(p, name + "encoder.", x, p["speaker.weight"][speakers], model.settings.heads, available)
        x = block(p, name + "intra.", block(p, name + "inter.", x, inter, released), intra, released)
        if released and m != "text":
            x = x / (1 + torch.exp(-(x @ p[name + "gate.weight"].T + p[name + "gate.bias"])))
        result[m] = x
    return result


def reference(model, batch):
    """Logits of every dialogue, fused and of each modality (equations 28 and 29)."""
    dialogues = []
    for number in range(len(batch)):
        part = rows(batch, number)
        features = {m: x[part] for m, x in batch.features.items()}
        present = {m: flags[part] for m, flags in batch.present.items()}
        nodes = nodes_of_dialogue(model, features, batch.speakers[part], present)
        z = {m: torch.relu(x) @ model.heads[m].weight.T + model.heads[m].bias for m, x in nodes.items()}
        fused = []
        for i in range(part.stop - part.start):
            seen = [z[m][i] for m in z if present[m][i]]
            fused.append(sum(seen) if seen else model.log_prior)
        dialogues.append((torch.stack(fused), z))
    return dialogues


def reference_loss(dialogues, batch, released):
    """Equations 31 to 33, as means over utterances that have a label and a modality."""

    def mean(logits, present):
        losses = []
        for i, z in enumerate(torch.cat(logits)):
            if present[i] and batch.labels[i] >= 0:
                losses.append(torch.logsumexp(z, 0) - z[batch.labels[i]])
        return sum(losses) / len(losses) if losses else 0 * logits[0].sum()

    total = mean([fused for fused, _ in dialogues], torch.stack(list(batch.present.values())).any(0))
    for m in batch.features:
        loss = mean([z[m] for _, z in dialogues], batch.present[m])
        total = total + (loss if released else loss.detach()) / 10 * loss
    return total


@pytest.mark.parametrize("variant", VARIANTS)
@given(
    lengths=st.one_of(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(13, 200).map(lambda n: [n])),
    speakers=st.integers(1, 12),
    window=st.one_of(st.integers(0, 8), st.just(300)),
    seed=st.integers(0, 2**31),
    absent=st.sampled_from([0.0, 0.4]),
    unlabelled=st.sampled_from([0.0, 0.3]),
)
@settings(deadline=None, max_examples=8)
def test_logits_loss_and_gradients_equal_the_reference(variant, lengths, speakers, window, seed, absent, unlabelled):
    config = dataclasses.replace(SMALL, variant=variant, window=window)
    model = tiny_model(config=config, speakers=speakers, seed=seed).train()
    batch = random_batch(tuple(lengths), speakers=speakers, seed=seed, absent=absent, unlabelled=unlabelled)
    output, slow = model(batch), reference(model, batch)
    for number, (fused, unimodal) in enumerate(slow):
        part = rows(batch, number)
        assert torch.allclose(output.logits[part], fused, atol=1e-8)
        for m, z in unimodal.items():
            there = batch.present[m][part]  # the rest is meaningless
            assert torch.allclose(output.unimodal[m][part][there], z[there], atol=1e-8)
    loss, slow_loss = model.loss(output, batch), reference_loss(slow, batch, variant == "released")
    assert torch.allclose(loss, slow_loss, atol=1e-9)
    parameters = [p for p in model.parameters() if p.requires_grad]
    options = {"allow_unused": True, "materialize_grads": True}
    pairs = zip(
        torch.autograd.grad(loss, parameters, **options),
        torch.autograd.grad(slow_loss, parameters, **options),
        strict=True,
    )
    for a, b in pairs:
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)
