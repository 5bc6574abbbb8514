"""Where PyTorch computes: the devices of `--device`, their names, and the precision of the arithmetic there."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    import torch  # imported in the functions, so that the command line can check a name without it

CHOICES = "auto, cpu, cuda or cuda:N"
_NAME = re.compile(r"auto|cpu|cuda(?::(?:0|[1-9][0-9]{0,3}))?", re.ASCII)


def is_device_name(name: str) -> bool:
    """Whether `name` has the form of a device, auto, cpu, cuda or cuda:N, be it there or not."""
    return _NAME.fullmatch(name) is not None


def pick_device(name: str) -> torch.device:
    """The device of `--device`; auto takes CUDA where there is any, cuda PyTorch's current CUDA device.

    Raises:
        UserError: `name` is no device, or one that this machine does not have.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not is_device_name(name):
        raise UserError(f"--device {name!r}: unknown; use {CHOICES} ({_seen(count)})")
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(f"--device {name}: not there, {_seen(count)}; use {_available(count)}")
    return device


def device_name(device: torch.device) -> str:
    """The device as it is printed and recorded, e.g. "cpu (8 threads)"."""
    import torch

    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"


def matrix_precision(name: str, device: torch.device) -> AbstractContextManager[object]:
    """The arithmetic of `train.precision`, as a context.

    "float32" is exact. "bfloat16" does matrix products in it (torch.autocast) and keeps weights, softmax, norms and
    loss in float32.
    """
    import torch

    return nullcontext() if name == "float32" else torch.autocast(device.type, torch.bfloat16)


def _seen(count: int) -> str:
    if not count:
        return "PyTorch sees no CUDA device here"
    return f"PyTorch sees {count} CUDA device{'s' if count > 1 else ''} here: {_numbers(count)}"


def _available(count: int) -> str:
    return f"auto, cpu, cuda or {_numbers(count)}" if count else "auto or cpu"


def _numbers(count: int) -> str:
    return "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
