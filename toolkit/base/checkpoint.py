"""The state of a training run between two epochs, as a file from which a killed run can be resumed.

A checkpoint is one safetensors file: tensors and, in the header, one JSON string. Nothing in it is executed. It is
written under a temporary name and renamed when complete, so a kill at any moment leaves the last complete one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import UserError, first_line
from .files import atomic_path

CHECKPOINT = "checkpoint.safetensors"
_HEADER = "erc-toolkit"  # the only metadata key: safetensors writes several in random order
_FORMAT = 2
_MODEL, _OPTIMIZER, _GENERATOR, _OTHER = "model.", "optimizer.", "generator.", "other."
_DAMAGE = (SafetensorError, OSError, LookupError, ValueError, TypeError, AttributeError, RuntimeError, OverflowError)


@dataclass(frozen=True, slots=True)
class TrainedParts:
    """What every training run has to save, besides the global random number generators.

    Attributes:
        model: its parameters and buffers.
        optimizer: its moments; the caller sets the hyperparameters, including the learning rate.
        shuffle: generator that draws the order of the examples.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    shuffle: torch.Generator


def save_checkpoint(
    path: Path,
    fingerprint: Mapping[str, str],
    parts: TrainedParts,
    facts: Mapping[str, object],
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes a checkpoint atomically, including the states of the generators of Python, NumPy, PyTorch and CUDA.

    Args:
        path: the file to write.
        fingerprint: hashes of what determines the run, by name; `load_checkpoint` rejects a different one.
        parts: of the run.
        facts: further values to restore; plain JSON.
        tensors: further tensors to restore.
    """
    found = {f"{_MODEL}{name}": tensor for name, tensor in parts.model.state_dict().items()}
    for index, moments in parts.optimizer.state_dict()["state"].items():
        found |= {f"{_OPTIMIZER}{index}.{name}": tensor for name, tensor in moments.items()}
    found |= {f"{_OTHER}{name}": tensor for name, tensor in (tensors or {}).items()}
    found |= {"generator.torch": torch.get_rng_state(), "generator.shuffle": parts.shuffle.get_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        found |= {f"generator.cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    numpy_state = np.random.get_state(legacy=False)
    assert isinstance(numpy_state, dict)  # legacy=True would return a tuple
    found["generator.numpy"] = torch.from_numpy(numpy_state["state"]["key"].astype(np.int64))
    header = {
        "format": _FORMAT,
        "fingerprint": dict(fingerprint),
        "facts": dict(facts),
        "python": random.getstate(),
        "numpy": [numpy_state["state"]["pos"], numpy_state["has_gauss"], numpy_state["gauss"]],
    }
    with atomic_path(path) as temporary:
        save_file(_plain(found), temporary, {_HEADER: json.dumps(header)})


def load_checkpoint(
    path: Path, fingerprint: Mapping[str, str], parts: TrainedParts, remedy: str
) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Restores a checkpoint into the new parts of a run and into the global random number generators.

    Args:
        path: the file to read.
        fingerprint, parts: as for `save_checkpoint`.
        remedy: what the user can do if the checkpoint cannot be used, for error messages.

    Returns:
        The saved `facts` and `tensors` (on the CPU); None if there is no such file.

    Raises:
        UserError: the file is damaged, was written by another version of the toolkit, or has another fingerprint.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            # Copies, so that memory is aligned as in an uninterrupted run: the order of summation may depend on it.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        if header["format"] != _FORMAT:
            raise UserError(f"{path}: written by another version of the toolkit; {remedy}")
        if header["fingerprint"] != dict(fingerprint):
            raise UserError(f"{path}: belongs to {_differences(header['fingerprint'], fingerprint)}; {remedy}")
        parts.model.load_state_dict(_part(tensors, _MODEL))
        parts.optimizer.load_state_dict(_optimizer_state(parts.optimizer, _part(tensors, _OPTIMIZER)))
        _restore_generators(header, _part(tensors, _GENERATOR), parts.shuffle)
        return header["facts"], _part(tensors, _OTHER)
    except torch.OutOfMemoryError:  # a RuntimeError, but not a sign of damage
        raise
    except _DAMAGE as error:
        raise UserError(f"{path}: damaged ({first_line(error)[:200]}); {remedy}") from None


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU that share no memory: safetensors rejects tied weights."""
    plain, seen = {}, set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        pointer = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if pointer in seen else tensor
        seen.add(pointer)
    return plain


def _restore_generators(header: Mapping, states: Mapping[str, Tensor], shuffle: torch.Generator) -> None:
    version, words, gauss = header["python"]
    random.setstate((version, tuple(words), gauss))
    position, has_gauss, gauss = header["numpy"]
    np.random.set_state(("MT19937", states["numpy"].numpy().astype(np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(states["torch"])
    shuffle.set_state(states["shuffle"])
    if cuda := _part(states, "cuda."):
        for index in range(min(len(cuda), torch.cuda.device_count())):
            torch.cuda.set_rng_state(cuda[str(index)], index)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _optimizer_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> dict[str, object]:
    """The state dict with these moments, each with its parameter's memory layout, as the optimizer would create it."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            tensor = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
        moments.setdefault(int(index), {})[key] = tensor
    return {"state": moments, "param_groups": optimizer.state_dict()["param_groups"]}


def _differences(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """A description of how two fingerprints differ."""
    names = [name for name in {**found, **expected} if found.get(name) != expected.get(name)]
    there, here = (
        " and ".join(f"{name} {one.get(name, '(none)')[:12]}" for name in names) for one in (found, expected)
    )
    return f"{there}, not {here}"
