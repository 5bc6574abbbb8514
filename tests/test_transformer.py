"""The Transformer baseline against PyTorch's own encoder, dialogue by dialogue."""

import torch
from test_train_support import DIMS, random_batch
from torch import nn

from erc_toolkit.train.layers.sequences.encoder import sinusoidal_positions
from erc_toolkit.train.models.baselines.transformer import Settings, Transformer


def baseline(**settings):
    """A small model in evaluation mode."""
    torch.manual_seed(0)
    return Transformer(Settings(hidden=16, heads=2, **settings), DIMS, 4, torch.ones(5)).double().eval()


def test_equals_pytorchs_encoder():
    model, batch = baseline(layers=3, inner=3), random_batch((6, 1, 9), speakers=4, absent=0.3)
    layers = []
    for ours in model.layers:
        theirs = nn.TransformerEncoderLayer(16, 2, 48, 0.0, batch_first=True).double().eval()
        theirs.self_attn.in_proj_weight, theirs.self_attn.in_proj_bias = ours.projections.weight, ours.projections.bias
        theirs.self_attn.out_proj, theirs.linear1, theirs.linear2 = ours.output, ours.inner, ours.outer
        theirs.norm1, theirs.norm2 = ours.heard_norm, ours.norm
        layers.append(theirs)
    present = torch.stack(list(batch.present.values())).any(0)
    features = torch.cat([batch.features[m] * batch.present[m][:, None] for m in DIMS], 1)
    expected = []
    for begin, end in zip(batch.offsets[:-1].tolist(), batch.offsets[1:].tolist(), strict=True):
        x = model.projection(features[begin:end]) + model.speaker.weight[batch.speakers[begin:end]]
        x = (x + sinusoidal_positions(end - begin, 16, x))[None]
        heard = present[None, begin:end] if present[begin:end].any() else torch.ones(1, end - begin, dtype=torch.bool)
        for layer in layers:
            x = layer(x, src_key_padding_mask=~heard)
        expected.append(model.output(x[0]))
    torch.testing.assert_close(model(batch).logits, torch.cat(expected), rtol=1e-9, atol=1e-9)


def test_a_window_hides_what_is_farther_away():
    model, batch = baseline(window=2, layers=1), random_batch((9,), speakers=4)
    before = model(batch).logits
    for x in batch.features.values():
        x[0] += 1
    changed = (model(batch).logits != before).any(1)
    assert changed.tolist() == [True] * 3 + [False] * 6
