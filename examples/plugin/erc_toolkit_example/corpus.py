"""A text corpus: one CSV file per split, one row per utterance.

    dialogue,speaker,text,emotion
    d1,Ann,You came!,happy
    d1,Bob,I said that I would.,

A row without an emotion is kept as context. `erc-toolkit extract csv-dialogues FOLDER --out STORE.h5` reads it.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated, Literal

from erc_toolkit import Manifest, UserError, Utterance

COLUMNS = ["dialogue", "speaker", "text", "emotion"]


def read_csv_dialogues(
    root: Path,
    *,
    delimiter: Annotated[Literal["comma", "tab"], "What separates the columns."] = "comma",
    minimum: Annotated[int, "Leave out dialogues with fewer utterances."] = 1,
) -> Manifest:
    """Text dialogues in train.csv, val.csv and test.csv."""
    utterances, labels, notes = [], set(), []
    for split in ("train", "val", "test"):
        path = Path(root) / f"{split}.csv"
        if not path.is_file():
            notes.append(f"no {path.name}")
            continue
        for dialogue, rows in _dialogues(path, "\t" if delimiter == "tab" else ",").items():
            if len(rows) < minimum:
                notes.append(f"{path.name}: dialogue {dialogue} has fewer than {minimum} utterances and is left out")
                continue
            labels.update(row["emotion"] for row in rows if row["emotion"])
            utterances += [
                Utterance(
                    id=f"{split}_{dialogue}_{position}",
                    dialogue=f"{split}_{dialogue}",
                    position=position,
                    speaker=row["speaker"],
                    text=row["text"],
                    label=row["emotion"] or None,
                    split=split,
                )
                for position, row in enumerate(rows)
            ]
    if not utterances:
        raise UserError(f"{root}: no utterances in train.csv, val.csv or test.csv; give the folder that contains them")
    return Manifest("csv-dialogues", sorted(labels), Path(root), utterances, notes)


def _dialogues(path: Path, delimiter: str) -> dict[str, list[dict[str, str]]]:
    """The rows of a file by dialogue, in the file's order.

    Raises:
        UserError: a column is missing, or a row has the wrong number of columns; the message names file and line.
    """
    found: dict[str, list[dict[str, str]]] = {}
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        if missing := [column for column in COLUMNS if column not in (reader.fieldnames or [])]:
            raise UserError(f"{path}, line 1: no column {missing[0]!r}; the header must have {', '.join(COLUMNS)}")
        for row in reader:
            if None in row or None in row.values():
                raise UserError(
                    f"{path}, line {reader.line_num}: does not have the same number of columns as the header"
                )
            found.setdefault(row["dialogue"], []).append(row)
    return found
