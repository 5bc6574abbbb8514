"""Weights of the encoders: loading without executing code, and the checksum that identifies them in the store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch

from ...toolkit.base.errors import UserError, first_line

# Types of the encoders' numbers by precision; features are always float32, and float32 is the exact mode. tf32 only
# allows matrix products to round their inputs (`toolkit.base.device.products_in`).
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_state(path: Path) -> dict[str, torch.Tensor]:
    """A state dict from a .safetensors file, or from a torch file that contains tensors only.

    Raises:
        UserError: no such file, or a file with other content.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise many types of errors, all of which mean an unusable file
        raise UserError(f"{path}: cannot be loaded safely as weights ({first_line(error)[:120]})") from None
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise UserError(f"{path}: does not contain a state dict of tensors")
    return dict(state)


def checksum(state: Mapping[str, torch.Tensor], floats: torch.dtype | None = None) -> str:
    """SHA-256 of the names, dtypes, shapes and bytes of a state dict, in the order of the names.

    Args:
        state: the tensors by name.
        floats: a type that floating-point tensors are converted to, one at a time, as if the model had been loaded in
            it; None leaves them as they are.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        tensor = tensor.detach().cpu().contiguous()
        if floats is not None and tensor.is_floating_point():
            tensor = tensor.to(floats)
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
