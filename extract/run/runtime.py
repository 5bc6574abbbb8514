"""`--runtime auto` over earlier work, and a recorded runtime that this machine lacks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch

from ..encoders.selection import AUTO, DENSENETS, OPENVINO, RUNTIMES, TORCH, Options
from .precision import earlier_options


def with_runtime(options: Options, out: Path, notify: Callable[[str], None]) -> Options:
    """The options with the runtime of earlier work at `out` in place of "auto", so that it can be resumed.

    Without earlier work on face networks, or with some in each runtime, "auto" stays: each network is measured when it
    is loaded.

    Args:
        options: of the run.
        out: the store that the run writes.
        notify: called with a line about what was chosen.
    """
    if options.runtime != AUTO:
        return options
    records = [one for one in earlier_options(["visual"], out) if one.get("visual_model") in DENSENETS]
    earlier = {str(one.get("runtime", TORCH)) for one in records} & set(RUNTIMES)
    if len(earlier) != 1:
        return options
    runtime = earlier.pop()
    notify(f"runtime: {runtime}, as the work in {out} is")
    return dataclasses.replace(options, runtime=runtime)


def runtime_here(options: Options, device: torch.device, notify: Callable[[str], None]) -> Options:
    """Recorded options with a runtime that computes on this device here; says so to `notify` if it is another."""
    if options.runtime == TORCH:
        return options
    if device.type == "cpu" and find_spec(OPENVINO) is not None:
        return options
    reason = "is not installed" if device.type == "cpu" else f"does not compute on {device.type}"
    notify(
        f"visual: the model was trained on features of OpenVINO, which {reason}; using PyTorch, up to rounding equal"
    )
    return dataclasses.replace(options, runtime=TORCH)
