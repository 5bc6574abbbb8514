"""Device and random numbers of a run."""

from __future__ import annotations

import random
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from ...toolkit.base.errors import UserError


def choose_device(name: str) -> torch.device:
    """The device of `--device auto|cpu|cuda`; auto takes CUDA where there is any.

    Raises:
        UserError: CUDA is asked for and not available.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise UserError("--device cuda: PyTorch sees no CUDA device here; use --device cpu or auto")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and available) else "cpu")


def device_name(device: torch.device) -> str:
    """The device as it is printed and recorded."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"


def precision(name: str, device: torch.device) -> AbstractContextManager:
    """The arithmetic of `train.precision`, as a context.

    "float32" is exact. "bfloat16" does matrix products in it (torch.autocast) and keeps weights, softmax, norms and loss
    in float32.
    """
    return nullcontext() if name == "float32" else torch.autocast(device.type, torch.bfloat16)


def seed_everything(seed: int) -> None:
    """Seeds the generators of Python, NumPy and PyTorch (every device)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
