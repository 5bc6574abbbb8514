"""The state of a training between two epochs, and the file that a killed training goes on from.

checkpoint.safetensors holds tensors and, in the header, one JSON text: no pickle, nothing that is executed. It takes its
name when it is complete, so that a kill at any moment leaves the last complete one.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ...toolkit.base.errors import UserError, first_line
from ...toolkit.base.files import atomic_path

CHECKPOINT = "checkpoint.safetensors"
_HEADER = "erc-toolkit"  # the only key of the header's map: safetensors writes several in random order
_FORMAT = 1


@dataclass(slots=True)
class Best:
    """The epoch selected so far: highest weighted F1, among equals lowest loss, among equals the earliest.

    Attributes:
        epoch: counted from 1.
        measures: of `erc_toolkit.train.scores.metrics.evaluate` on the split that selects.
        loss: on that split.
        weights: the model's state then.
    """

    epoch: int
    measures: dict[str, object]
    loss: float
    weights: dict[str, Tensor]

    def beaten_by(self, measures: dict[str, object], loss: float) -> bool:
        """Whether a later epoch is better."""
        return (measures["weighted_f1"], -loss) > (self.measures["weighted_f1"], -self.loss)


@dataclass(slots=True)
class State:
    """All that the rest of a training depends on, besides the generators of Python, NumPy and PyTorch.

    Attributes:
        model, optimiser: as they stand.
        shuffle: draws the order of the dialogues.
        epoch: epochs that are done.
        best: None before the first one is done.
        seconds: spent on them.
        resumed: epochs after which the training was taken up again.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    shuffle: torch.Generator
    epoch: int = 0
    best: Best | None = None
    seconds: float = 0.0
    resumed: list[int] = field(default_factory=list)


def save_checkpoint(folder: Path, state: State, fingerprint: dict[str, str]) -> None:
    """Writes the state and the generators' states, atomically."""
    tensors = {f"model.{name}": tensor for name, tensor in state.model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in state.best.weights.items()}
    for index, moments in state.optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{name}": tensor for name, tensor in moments.items()}
    tensors |= {"generator.torch": torch.get_rng_state(), "generator.shuffle": state.shuffle.get_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        tensors |= {f"generator.cuda.{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    numpy_state = np.random.get_state(legacy=False)
    tensors["generator.numpy"] = torch.from_numpy(numpy_state["state"]["key"].astype(np.int64))
    header = {
        "format": _FORMAT,
        "fingerprint": fingerprint,
        "epoch": state.epoch,
        "seconds": state.seconds,
        "resumed": state.resumed,
        "best": {"epoch": state.best.epoch, "measures": state.best.measures, "loss": state.best.loss},
        "python": random.getstate(),
        "numpy": [numpy_state["state"]["pos"], numpy_state["has_gauss"], numpy_state["gauss"]],
    }
    with atomic_path(folder / CHECKPOINT) as temporary:
        plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(plain, temporary, {_HEADER: json.dumps(header)})


def load_checkpoint(folder: Path, state: State, fingerprint: dict[str, str]) -> bool:
    """Puts a folder's checkpoint into a fresh state and the generators; False where there is none.

    Raises:
        UserError: the file is damaged, or of other settings, another store or another model.
    """
    path = folder / CHECKPOINT
    if not path.is_file():
        return False
    remedy = "start anew with --overwrite"
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            # Copies, for memory aligned as in an undisturbed run: what is summed in which order may hang on that.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        if header["format"] != _FORMAT:
            raise UserError(f"{path}: written by another version of the toolkit; {remedy}")
        if header["fingerprint"] != fingerprint:
            raise UserError(f"{path}: belongs to {_words(header['fingerprint'])}, not {_words(fingerprint)}; {remedy}")
        state.model.load_state_dict(_part(tensors, "model."))
        state.optimiser.load_state_dict(_optimiser_state(state, _part(tensors, "optimiser.")))
        best = header["best"]
        expected = state.model.state_dict()
        weights = {name: t.to(expected[name].device) for name, t in _part(tensors, "best.").items()}
        state.best = Best(best["epoch"], best["measures"], best["loss"], weights)
        state.epoch, state.seconds, state.resumed = header["epoch"], header["seconds"], header["resumed"]
        version, words, gauss = header["python"]
        random.setstate((version, tuple(words), gauss))
        position, has_gauss, gauss = header["numpy"]
        key = tensors["generator.numpy"].numpy().astype(np.uint32)
        np.random.set_state(("MT19937", key, position, has_gauss, gauss))
        torch.set_rng_state(tensors["generator.torch"])
        state.shuffle.set_state(tensors["generator.shuffle"])
        if cuda := _part(tensors, "generator.cuda."):
            for index in range(min(len(cuda), torch.cuda.device_count())):
                torch.cuda.set_rng_state(cuda[str(index)], index)
    except (SafetensorError, OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"{path}: damaged ({first_line(error)}); {remedy}") from None
    return True


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _optimiser_state(state: State, tensors: dict[str, Tensor]) -> dict[str, object]:
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        moments.setdefault(int(index), {})[key] = tensor
    return {"state": moments, "param_groups": state.optimiser.state_dict()["param_groups"]}


def _words(fingerprint: dict[str, str]) -> str:
    return f"settings {fingerprint['settings'][:12]}… and store content {fingerprint['store'][:12]}…"
