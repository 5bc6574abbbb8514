"""The numbers' type of a text model and the devices that it is on."""

from __future__ import annotations

import copy
from itertools import chain
from typing import Any

import torch

from ....toolkit.base.errors import UserError
from ....toolkit.base.extras import require_extra

# Of a GPU's free memory; the rest is for a batch.
_FOR_WEIGHTS = 0.9


def check_spread(device: torch.device) -> None:
    """Raises a UserError if a model cannot be spread: accelerate is missing, or one GPU of several was chosen."""
    require_extra("--device-map", "accelerate", "llm")
    if device.type != "cpu" and device.index is not None:
        raise UserError(f"--device-map uses all devices, but --device is {device}; leave one of the two out")


def convert(model: Any, dtype: torch.dtype) -> None:
    """Converts a transformers model's numbers in place, tensor by tensor, to what a model of type `dtype` has.

    `model.to(dtype)` would also round the frequencies of rotary positions, which transformers keeps in float32 in a
    model of any type: after a few hundred tokens the angles would be wrong.
    """
    if all(tensor.dtype == dtype for tensor in model.parameters()):  # as it was loaded
        return
    with torch.device("meta"):
        like = type(model)._from_config(copy.deepcopy(model.config), dtype=dtype)
    types = {name: tensor.dtype for name, tensor in chain(like.named_parameters(), like.named_buffers())}
    for name, tensor in chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(types.get(name, dtype))


def place(model: torch.nn.Module, device: torch.device, spread: bool) -> torch.device:
    """Moves a model from the main memory to its device, or to several.

    Args:
        model: a transformers model.
        device: of the run.
        spread: over all devices of the type of `device`, and where they are too small the main memory, by accelerate.

    Returns:
        The device of the model's inputs.

    Raises:
        UserError: the model fits nowhere.
    """
    if not spread:
        model.to(device)
        return device
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory, get_max_memory

    size = sum(tensor.nbytes for tensor in chain(model.parameters(), model.buffers()))
    # The main memory holds the model already, so what is free there comes on top of it.
    memory: dict[int | str, int | str] = {"cpu": size * 2}
    if device.type != "cpu":
        free = {key: int(value * _FOR_WEIGHTS) for key, value in get_max_memory().items()}
        memory = {**free, "cpu": free.get("cpu", 0) + size}
    whole = list(getattr(model, "_no_split_modules", None) or [])  # layers, whose residual sums need one device
    balanced = get_balanced_memory(model, memory, no_split_module_classes=whole)
    devices = infer_auto_device_map(model, balanced, no_split_module_classes=whole)
    if "disk" in devices.values():
        raise UserError("--device-map: the model fits into no memory here; use a smaller one, or --precision bfloat16")
    dispatch_model(model, devices, skip_keys=getattr(model, "_skip_keys_device_placement", None))
    computing = [one for one in devices.values() if one != "cpu"]
    first = computing[0] if computing else "cpu"
    return torch.device(device.type, first) if isinstance(first, int) else torch.device(first)
