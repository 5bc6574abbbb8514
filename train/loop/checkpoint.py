"""The state of a training run between epochs, and its checkpoint in the run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...toolkit.base.checkpoint import CHECKPOINT, TrainedParts
from ...toolkit.base.checkpoint import load_checkpoint as load_parts
from ...toolkit.base.checkpoint import save_checkpoint as save_parts
from ...toolkit.base.errors import UserError
from ..models.base import Model
from ..scores.metrics import Measures

_REMEDY = "start again with --overwrite"


@dataclass(slots=True)
class BestEpoch:
    """The epoch selected so far: highest weighted F1; ties go to the lowest loss, then to the earliest epoch.

    Attributes:
        epoch: counted from 1.
        measures: of `erc_toolkit.train.scores.metrics.evaluate` on the selection split.
        loss: on that split.
        weights: the model's state after that epoch.
    """

    epoch: int
    measures: Measures
    loss: float
    weights: dict[str, Tensor]

    def beaten_by(self, measures: Measures, loss: float) -> bool:
        """Whether a later epoch is better."""
        return (measures["weighted_f1"], -loss) > (self.measures["weighted_f1"], -self.loss)


@dataclass(slots=True)
class TrainingState:
    """Everything that the rest of a training run depends on, except the generators of Python, NumPy and PyTorch.

    Attributes:
        model, optimizer: as they are after the last completed epoch.
        shuffle: draws the order of the dialogues.
        epoch: number of completed epochs.
        best: None before the first one is completed.
    """

    model: Model[Any]
    optimizer: torch.optim.Optimizer
    shuffle: torch.Generator
    epoch: int = 0
    best: BestEpoch | None = None

    @property
    def parts(self) -> TrainedParts:
        """The parts that all of the toolkit's training checkpoints contain."""
        return TrainedParts(self.model, self.optimizer, self.shuffle)


def save_checkpoint(folder: Path, state: TrainingState, fingerprint: Mapping[str, str]) -> None:
    """Writes the state after at least one epoch, and the generators' states, atomically."""
    best = state.best
    assert best is not None  # there is a best epoch as soon as one is completed
    facts = {"epoch": state.epoch, "best": {"epoch": best.epoch, "measures": best.measures, "loss": best.loss}}
    save_parts(folder / CHECKPOINT, fingerprint, state.parts, facts, best.weights)


def load_checkpoint(folder: Path, state: TrainingState, fingerprint: Mapping[str, str]) -> bool:
    """Loads a folder's checkpoint into a new state and the generators; returns False if there is none.

    Raises:
        UserError: the file is damaged, or belongs to other settings, another store or another model.
    """
    path = folder / CHECKPOINT
    found = load_parts(path, fingerprint, state.parts, _REMEDY)
    if found is None:
        return False
    facts, tensors = found
    try:
        best = facts["best"]
        expected = state.model.state_dict()
        weights = {name: tensor.to(expected[name].device) for name, tensor in tensors.items()}
        state.best = BestEpoch(best["epoch"], best["measures"], best["loss"], weights)
        state.epoch = facts["epoch"]
    except (LookupError, TypeError) as error:
        raise UserError(f"{path}: damaged (missing {error}); {_REMEDY}") from None
    return True
