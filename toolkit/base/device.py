"""The devices that `--device` accepts, their names, and the precision of their arithmetic."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from .errors import UserError
from .words import counted

if TYPE_CHECKING:
    import torch  # imported inside functions, so that the command line can check a name without it

CHOICES = "auto, cpu, cuda or cuda:N"
_NAME = re.compile(r"auto|cpu|cuda(?::(?:0|[1-9][0-9]{0,3}))?", re.ASCII)


def is_device_name(name: str) -> bool:
    """Whether `name` is auto, cpu, cuda or cuda:N; the device itself need not exist."""
    return _NAME.fullmatch(name) is not None


def pick_device(name: str) -> torch.device:
    """The device that `--device` names; auto selects CUDA if available, cuda PyTorch's current CUDA device.

    Raises:
        UserError: `name` is not a device name, or this machine does not have that device.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not is_device_name(name):
        raise UserError(f"--device {name!r}: unknown; use {CHOICES} ({_seen(count)})")
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(f"--device {name}: not available, {_seen(count)}; use {_available(count)}")
    return device


def device_name(device: torch.device) -> str:
    """The device as it is printed and recorded, e.g. "cpu (8 threads)"."""
    import torch

    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({counted(torch.get_num_threads(), 'thread')})"


def matrix_precision(name: str, device: torch.device) -> AbstractContextManager[object]:
    """The arithmetic of `train.precision`, as a context.

    "float32" is full precision. "bfloat16" computes matrix products in bfloat16 (torch.autocast) and keeps weights,
    softmax, norms and loss in float32.
    """
    import torch

    return nullcontext() if name == "float32" else torch.autocast(device.type, torch.bfloat16)


def _seen(count: int) -> str:
    if not count:
        return "PyTorch sees no CUDA device here"
    return f"PyTorch sees {counted(count, 'CUDA device')} here: {_numbers(count)}"


def _available(count: int) -> str:
    return f"auto, cpu, cuda or {_numbers(count)}" if count else "auto or cpu"


def _numbers(count: int) -> str:
    return "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
