"""A dialogue classified turn by turn, each from what came before it: the path of `predict --causal` and `--live`.

The last bits of a model's sums depend on the number of rows that are multiplied at once. So that a stream and a whole
recording give the same numbers, both go through `CausalDialogue`, which runs the model on the turns so far for every
turn, and both prepare a turn's features by themselves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ...toolkit.base.device import inference
from ..data.batch import Conversations
from ..data.speakers import LearnedSpeakers, give_speakers


class CausalDialogue:
    """The turns of one dialogue so far.

    Args:
        model: in evaluation mode, on `device`.
        learned: what it has learned about speakers.
        chosen: speaker to the one of the model whose learned parameters apply, as of `give_speakers`; those who have
            not spoken yet are left out.
        precision: the run's.
        device: of the model.
        past: number of turns before a turn that it is classified from; None for all of them, so that memory grows by
            the features of each turn (4 bytes per dimension), and the time of a turn with their number.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        learned: LearnedSpeakers,
        chosen: Mapping[str, str],
        precision: str,
        device: torch.device,
        past: int | None = None,
    ) -> None:
        self._model, self._learned, self._chosen = model, learned, chosen
        self._precision, self._device = precision, device
        self._rows: deque[tuple[str, Mapping[str, np.ndarray], Mapping[str, bool]]] = deque(
            maxlen=None if past is None else past + 1
        )
        self._people: dict[str, None] = {}  # everyone so far, in order of appearance

    def add(
        self, speaker: str, features: Mapping[str, np.ndarray], present: Mapping[str, bool]
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Classifies the next turn.

        Args:
            speaker: its speaker.
            features: modality to (D,) float32, normalised; zeros where the turn does not have it.
            present: modality to whether the turn has it.

        Returns:
            The emotions' probabilities, float64 (C,), and for models that predict from single modalities, modality to
            such probabilities.

        Raises:
            UserError: one speaker more than the model supports.
        """
        self._people.setdefault(speaker)
        self._rows.append((speaker, features, present))
        output = self._run()
        whole = _probabilities(output.logits)
        return whole, {m: _probabilities(own) for m, own in getattr(output, "unimodal", {}).items()}

    def _run(self) -> Any:
        n = len(self._rows)
        # Those who spoke before the turns that are kept count for the order of appearance.
        names = [*self._people, *(speaker for speaker, _, _ in self._rows)]
        chosen = {name: one for name, one in self._chosen.items() if name in self._people}
        given = give_speakers(names, [0, len(names)], self._learned, "the turns", chosen).speakers
        first = len(self._people)
        data = Conversations(
            {m: np.stack([row[m] for _, row, _ in self._rows]) for m in self._rows[0][1]},
            {m: np.array([there[m] for _, _, there in self._rows]) for m in self._rows[0][2]},
            given.index[first:],
            np.full(n, -1, np.int64),
            np.array([0, n], np.int64),
            None if given.people is None else given.people[first:],
        ).to(self._device)
        with inference(self._precision, self._device):
            return self._model(data.batch(torch.arange(1)))


def _probabilities(logits: torch.Tensor) -> np.ndarray:
    """float64 (C,) of the last row of logits (n, C)."""
    return logits[-1:].cpu().double().softmax(-1)[0].numpy()
