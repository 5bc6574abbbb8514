"""How fast a precision is on a device: processors without instructions for one compute in it by conversions, slower."""

from __future__ import annotations

import time
from functools import cache
from typing import TYPE_CHECKING

from .device import synchronize

if TYPE_CHECKING:
    import torch

AUTO = "auto"
_TRIES = 9
_FASTER = 0.8  # of float32's time, at most, for `fastest_precision`: conversions elsewhere take some of what is won


@cache
def relative_time(precision: str, device: torch.device) -> float:
    """The time of a matrix product in a precision, divided by that in float32; measured once, in a few milliseconds.

    Args:
        precision: "bfloat16" or "float16".
        device: where to compute.
    """
    import torch

    # The shape of a layer of a base encoder on a few short texts. The generators of random numbers are left alone.
    matrices = [torch.full(shape, 0.5, device=device) for shape in ((64, 768), (768, 768))]
    operands = {name: [m.to(getattr(torch, name)) for m in matrices] for name in ("float32", precision)}
    shortest = dict.fromkeys(operands, float("inf"))
    with torch.inference_mode():
        for left, right in operands.values():
            torch.nn.functional.linear(left, right)  # the first one also chooses the algorithm
        for _ in range(_TRIES):  # in turn, so that a busy machine disturbs both
            for name, (left, right) in operands.items():
                synchronize(device)
                began = time.perf_counter()
                torch.nn.functional.linear(left, right)
                synchronize(device)
                shortest[name] = min(shortest[name], time.perf_counter() - began)
    return shortest[precision] / shortest["float32"]


def fastest_precision(device: torch.device) -> str:
    """bfloat16 where it is really faster than float32, which is exact, and otherwise float32."""
    return "bfloat16" if relative_time("bfloat16", device) < _FASTER else "float32"


def slowness(precision: str, device: torch.device, option: str) -> str | None:
    """A line for the user if a precision is slower on a device than float32, which is more exact; otherwise None.

    Args:
        precision: any precision.
        device: where to compute.
        option: what the user chose it with.
    """
    if precision not in ("bfloat16", "float16") or (ratio := relative_time(precision, device)) <= 1:
        return None
    return f"{option} {precision} is slower here: a matrix product takes {ratio:.1f} times as long as in float32"
