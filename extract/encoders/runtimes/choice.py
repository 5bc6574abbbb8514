"""Which library computes a network: PyTorch, or another that has the same values and, for `auto`, is faster here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec

import torch

from ....toolkit.base.errors import UserError, one_line
from ....toolkit.base.extras import require_extra
from ..selection import OPENVINO, TORCH

Compute = Callable[[torch.Tensor], torch.Tensor]

# Of the largest value. Rounding in another order was at most 3e-7 (benchmarks/README.md).
MOST_DIFFERENCE = 1e-5
# Of PyTorch's time, at most, for `auto`: what is hardly faster is no reason to compute other last bits.
_FASTER = 0.9
_SECONDS, _LEAST_ROUNDS = 1.0, 2
_IMAGES = 4  # that the two are compared on


@dataclass(frozen=True)
class Runtime:
    """What computes a network.

    Attributes:
        name: `TORCH` or `OPENVINO`.
        compute: from images to vectors; None for PyTorch.
        note: how it was chosen, for the user; empty if PyTorch was asked for.
    """

    name: str = TORCH
    compute: Compute | None = None
    note: str = ""

    @property
    def versions(self) -> dict[str, str]:
        """Of the library, for the store; PyTorch's is there in any case."""
        return {} if self.name == TORCH else {self.name: version(self.name)}

    @property
    def parameters(self) -> dict[str, str]:
        """For the store; nothing for PyTorch, so that features from before there was a choice are the same."""
        return {} if self.name == TORCH else {"runtime": self.name}


def choose_runtime(
    asked: str,
    device: torch.device,
    precision: str,
    shape: tuple[int, int, int],
    ours: Compute,
    build: Callable[[], Compute],
) -> Runtime:
    """The runtime for a network, whose values on a sample were compared with PyTorch's.

    Args:
        asked: one of `selection.RUNTIMES`. `selection.AUTO` measures for about a second.
        device, precision: of the network.
        shape: (channels, height, width) of an image.
        ours: computes images in channels_last with PyTorch.
        build: builds the network in OpenVINO; may raise anything.

    Raises:
        UserError: OpenVINO is asked for by name, but is not installed, does not compute on the device or in the
            precision, cannot build the network, or has other values than PyTorch.
    """
    if asked == TORCH:
        return Runtime()
    what = f"--runtime {OPENVINO}"
    reason = ""
    if device.type != "cpu":
        reason = f"is for the CPU, not {device.type}; leave it out"
    elif precision != "float32":
        reason = f"computes in float32, not {precision}; leave one of the two out"
    if reason and asked == OPENVINO:
        raise UserError(f"{what}: {reason}")
    if asked == OPENVINO:
        require_extra(what, OPENVINO, OPENVINO)
    elif reason or find_spec(OPENVINO) is None:
        return Runtime(note=f"PyTorch, as OpenVINO {reason.partition(';')[0] or 'is not installed'}")
    # Noise with the mean and the deviation of normalised images; PyTorch's own random numbers are left alone.
    sample = torch.randn((_IMAGES, *shape), generator=torch.Generator().manual_seed(0))
    sample = sample.contiguous(memory_format=torch.channels_last)
    ours = torch.inference_mode()(ours)
    try:
        theirs = build()
        problem = _difference(ours, theirs, sample)
    except Exception as error:  # of a library that may raise anything
        problem = f"it cannot compute this network here ({one_line(error)[:120]})"
    if problem and asked == OPENVINO:
        raise UserError(f"{what}: {problem}; leave it out, so that PyTorch computes")
    if problem:
        return Runtime(note=f"PyTorch, and not OpenVINO: {problem}")
    if asked == OPENVINO:
        return Runtime(OPENVINO, theirs, "OpenVINO")
    ratio = _time_ratio(ours, theirs, sample)
    if ratio > _FASTER:
        return Runtime(note=f"PyTorch, as OpenVINO takes {ratio:.2f} times as long here")
    return Runtime(OPENVINO, theirs, f"OpenVINO, which takes {ratio:.2f} times as long as PyTorch here")


def _difference(ours: Compute, theirs: Compute, sample: torch.Tensor) -> str:
    """What is wrong with the values of `theirs`; empty if nothing is."""
    expected, found = ours(sample), theirs(sample)
    if found.shape != expected.shape:
        return f"it has values of shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    largest = float(expected.abs().max())
    difference = float((found - expected).abs().max())
    if difference <= MOST_DIFFERENCE * largest:  # not with NaN, too
        return ""
    return f"its values differ by {difference:.1e} from PyTorch's, of which the largest is {largest:.1e}"


def _time_ratio(ours: Compute, theirs: Compute, sample: torch.Tensor) -> float:
    """The time of `theirs` divided by that of `ours`, each at its best; both have computed the sample before."""
    shortest = [float("inf")] * 2
    began, rounds = time.perf_counter(), 0
    while rounds < _LEAST_ROUNDS or time.perf_counter() - began < _SECONDS:
        for i, compute in enumerate((ours, theirs)):  # in turn, so that a busy machine disturbs both
            before = time.perf_counter()
            compute(sample)
            shortest[i] = min(shortest[i], time.perf_counter() - before)
        rounds += 1
    return shortest[1] / shortest[0]
