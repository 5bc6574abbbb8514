"""A model's predictions for every utterance of a split: predictions.csv, and the table behind every measure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ...toolkit.base.csv_cells import csv_text, original_cell
from ...toolkit.base.errors import UserError, one_line
from ...toolkit.base.files import write_atomically
from ...toolkit.base.reading.plain_json import text_problem
from ...toolkit.base.reading.plain_numbers import parse_number, parse_whole
from ...toolkit.base.reading.tables import read_rows
from ...toolkit.base.reading.texts import decode_text

PREDICTIONS = "predictions.csv"
_FIXED = ("id", "dialogue", "position", "speaker", "true", "predicted")
_TEXT = "text"  # after the speaker; earlier versions wrote none
_LONGEST = 100_000  # characters of a text; readers of CSV refuse longer cells
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
        text: (n,) object array of strings; None if the file is of an earlier version, which had no texts.
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
    text: np.ndarray | None = None

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
        names = ("id", "dialogue", "speaker", "position", "true", "predicted", "probabilities", "own", "text")
        found = {name: getattr(self, name) for name in names}
        return replace(self, **{name: column[chosen] for name, column in found.items() if column is not None})

    def write(self, folder: Path) -> None:
        """Writes FOLDER/predictions.csv, with empty cells for -1 and spaces for carriage returns in names and texts.

        Of a text, at most 100,000 characters are written. Cells are as by
        `erc_toolkit.toolkit.base.csv_cells.safe_cell`.
        """
        names = np.array([*self.labels, ""], object)  # the last one stands for -1
        columns: dict[str, Iterable[object]] = {
            "id": _one_line_ends(self.id),
            "dialogue": _one_line_ends(self.dialogue),
            "position": self.position,
            "speaker": _one_line_ends(self.speaker),
        }
        if self.text is not None:
            columns[_TEXT] = (text[:_LONGEST] for text in _one_line_ends(self.text))
        columns |= {"true": names[self.true], "predicted": names[self.predicted]}
        rows: list[list[object]] = [
            [*columns, *(_OWN + m for m in self.modalities), *(_PROBABILITY + label for label in self.labels)]
        ]
        for *cells, own, row in zip(*columns.values(), names[self.own], self.probabilities, strict=True):
            rows.append([*cells, *own, *(f"{p:.6f}" for p in row)])
        write_atomically(folder / PREDICTIONS, csv_text(rows).encode("utf-8"))


def read_predictions(folder: Path) -> Predictions:
    """Reads FOLDER/predictions.csv.

    Raises:
        UserError: there is none, or it is damaged or from an earlier version.
    """
    path = folder / PREDICTIONS
    try:
        text, _ = decode_text(path.read_bytes(), path)
        head, *rows = read_rows(text, path, _FIXED)
        labels = [name.removeprefix(_PROBABILITY) for name in head if name.startswith(_PROBABILITY)]
        modalities = [name.removeprefix(_OWN) for name in head if name.startswith(_OWN)]
        fixed = [*_FIXED[:4], *([_TEXT] if _TEXT in head[4:5] else []), *_FIXED[4:]]
        if (
            head != [*fixed, *(_OWN + m for m in modalities), *(_PROBABILITY + label for label in labels)]
            or not labels
            or len({*head}) != len(head)
        ):
            raise ValueError("columns")
        if any(len(row) != len(head) for row in rows):
            raise ValueError("length of a row")
        if problem := text_problem(text):
            raise ValueError(problem)
        index = {name: i for i, name in enumerate(labels)} | {"": -1}
        classes_at, numbers_at = len(fixed) - 2, len(fixed) + len(modalities)
        texts = [i for i in range(numbers_at) if head[i] != "position"]
        rows = [[original_cell(cell) if i in texts else cell for i, cell in enumerate(row)] for row in rows]
        cells = np.array(rows, object).reshape(len(rows), len(head))
        classes = np.array([[index[name] for name in row] for row in cells[:, classes_at:numbers_at]], np.int64)
        classes = classes.reshape(len(rows), 2 + len(modalities))
        numbers = [[parse_number(cell) for cell in row] for row in cells[:, numbers_at:]]
        probabilities = np.array(numbers, np.float64).reshape(len(rows), len(labels))
        if not np.isfinite(probabilities).all() or (classes[:, 1] < 0).any():
            raise ValueError("values")
        return Predictions(
            labels,
            modalities,
            cells[:, 0],
            cells[:, 1],
            cells[:, 3],
            np.array([_position(cell) for cell in cells[:, 2]], np.int64),
            classes[:, 0],
            classes[:, 1],
            probabilities,
            classes[:, 2:],
            cells[:, 4] if _TEXT in fixed else None,
        )
    except FileNotFoundError:
        raise UserError(f"{path}: not found; train on a store with a test split first") from None
    except (OSError, ValueError, KeyError, OverflowError) as error:
        raise UserError(
            f"{path}: cannot be read as predictions ({one_line(error)}); train again with --overwrite"
        ) from None


def _one_line_ends(column: np.ndarray) -> list[str]:
    """Texts without carriage returns, which readers of CSV treat in different ways."""
    return [str(text).replace("\r", " ") for text in column]


def _position(cell: str) -> int:
    position = parse_whole(cell)
    if position is None:
        raise ValueError(f"position {cell[:40]!r}")
    return position
