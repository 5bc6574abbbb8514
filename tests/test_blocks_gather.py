"""Weighted sums over blocks of rows in one operation on a CPU, against the same one after the other."""

import pytest
import torch

from erc_toolkit.train.layers import blocks
from erc_toolkit.train.layers.blocks import Blocks


@pytest.mark.parametrize(("rows", "reach"), [(1, 0), (5, 0), (17, 3), (40, 16), (100, 40), (300, 200), (9, 8)])
@pytest.mark.parametrize("slices", [1, 3])
def test_sums_and_gradients_are_those_of_the_operations(rows, reach, slices, monkeypatch):
    torch.manual_seed(0)
    own = Blocks(rows, reach, torch.device("cpu"))
    weights = torch.randn(slices, own.count, own.size, own.span, dtype=torch.float64, requires_grad=True)
    wide = torch.randn(rows, slices, 4, dtype=torch.float64, requires_grad=True)
    slope = torch.randn(slices, rows, 4, dtype=torch.float64)
    found = {}
    for fused in (True, False):
        monkeypatch.setattr(blocks, "is_fusible", lambda *of, fused=fused: fused)
        y = own.gather(weights, wide.transpose(0, 1))  # not contiguous, as a layer's heads are
        found[fused] = [y, *torch.autograd.grad((y * slope).sum(), [weights, wide])]
    for a, b in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_a_cpu_fuses_unless_types_are_mixed_or_changed():
    x, weight = torch.zeros(2, 3), torch.zeros(3, 4)
    assert blocks.is_fusible(x, weight)
    assert not blocks.is_fusible(x.double(), weight)
    assert not blocks.is_fusible(x.to("meta"), weight.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert not blocks.is_fusible(x, weight)
