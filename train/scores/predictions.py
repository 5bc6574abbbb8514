"""A model's predictions for every utterance of a split: predictions.csv, and the table behind every measure."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...toolkit.base.errors import UserError
from ...toolkit.base.files import write_atomically

PREDICTIONS = "predictions.csv"
_FIXED = ("id", "dialogue", "position", "speaker", "true", "predicted")
_OWN, _PROBABILITY = "predicted_", "p_"


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions for n utterances, dialogue after dialogue, each in its order.

    Attributes:
        labels: names of the C classes.
        modalities: names of the M modalities that the model has.
        id, dialogue, speaker: (n,) object arrays of strings.
        position: (n,) int64, position in the dialogue, from 0.
        true: (n,) int64, class; -1 if there is no label.
        predicted: (n,) int64, most probable class.
        probabilities: (n, C) float64.
        own: (n, M) int64, class predicted from a modality alone; -1 where it is absent or the model makes no such
            prediction.
    """

    labels: list[str]
    modalities: list[str]
    id: np.ndarray
    dialogue: np.ndarray
    speaker: np.ndarray
    position: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    probabilities: np.ndarray
    own: np.ndarray

    def __len__(self) -> int:
        """The number of utterances."""
        return len(self.id)

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int64, utterances of each utterance's dialogue."""
        _, dialogue, counts = np.unique(self.dialogue.astype(str), return_inverse=True, return_counts=True)
        return counts[dialogue]

    def select(self, chosen: np.ndarray) -> Predictions:
        """The predictions selected by a mask (n,); `position` remains that in the whole dialogue."""
        names = ("id", "dialogue", "speaker", "position", "true", "predicted", "probabilities", "own")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def write(self, folder: Path) -> None:
        """Writes FOLDER/predictions.csv, with empty cells for -1 and spaces for carriage returns in names."""
        names = np.array([*self.labels, ""], object)  # the last one stands for -1
        texts = [[str(name).replace("\r", " ") for name in column] for column in (self.id, self.dialogue, self.speaker)]
        columns = [*texts[:2], self.position, texts[2], names[self.true], names[self.predicted]]
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            [*_FIXED, *(_OWN + m for m in self.modalities), *(_PROBABILITY + label for label in self.labels)]
        )
        for *cells, own, row in zip(*columns, names[self.own], self.probabilities, strict=True):
            writer.writerow([*cells, *own, *(f"{p:.6f}" for p in row)])
        write_atomically(folder / PREDICTIONS, text.getvalue().encode("utf-8"))


def read_predictions(folder: Path) -> Predictions:
    """Reads FOLDER/predictions.csv.

    Raises:
        UserError: there is none, or it is damaged or from an earlier version.
    """
    path = folder / PREDICTIONS
    try:
        with open(path, encoding="utf-8", newline="") as file:
            head, *rows = csv.reader(file)
        labels = [name.removeprefix(_PROBABILITY) for name in head if name.startswith(_PROBABILITY)]
        modalities = [name.removeprefix(_OWN) for name in head if name.startswith(_OWN)]
        if (
            head != [*_FIXED, *(_OWN + m for m in modalities), *(_PROBABILITY + label for label in labels)]
            or not labels
        ):
            raise ValueError("columns")
        if any(len(row) != len(head) for row in rows):
            raise ValueError("length of a row")
        index = {name: i for i, name in enumerate(labels)} | {"": -1}
        cells = np.array(rows, object).reshape(len(rows), len(head))
        classes = np.array([[index[name] for name in row] for row in cells[:, 4 : 6 + len(modalities)]], np.int64)
        classes = classes.reshape(len(rows), 2 + len(modalities))
        probabilities = cells[:, 6 + len(modalities) :].astype(np.float64)
        if not np.isfinite(probabilities).all() or (classes[:, 1] < 0).any():
            raise ValueError("values")
        return Predictions(
            labels,
            modalities,
            cells[:, 0],
            cells[:, 1],
            cells[:, 3],
            cells[:, 2].astype(np.int64),
            classes[:, 0],
            classes[:, 1],
            probabilities,
            classes[:, 2:],
        )
    except FileNotFoundError:
        raise UserError(f"{path}: not found; train on a store with a test split first") from None
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as predictions ({error}); train again with --overwrite") from None
