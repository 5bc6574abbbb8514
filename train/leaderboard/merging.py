"""Boards of several machines, joined."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from ...toolkit.base.errors import UserError
from .record import VERSION, Board, BoardRow, BoardStore, row_key


def merged(boards: Sequence[tuple[Path, Board]]) -> Board:
    """One board with the stores and rows of several; of rows with the same settings, all seeds.

    Args:
        boards: each with the path that the user gave for it.

    Raises:
        UserError: two boards contradict each other about a store, or about a run of the same settings and seed.
    """
    stores: dict[str, tuple[Path, BoardStore]] = {}
    rows: dict[str, tuple[Path, BoardRow]] = {}
    for path, board in boards:
        for store in board["stores"]:
            first, known = stores.setdefault(store["content_sha256"], (path, store))
            if any(known[key] != store[key] for key in ("labels", "dialogues", "true", "utterances")):
                raise UserError(f"{path}: its test split of {store['name']} is not that of {first}, of the same store")
        for row in board["rows"]:
            if (key := row_key(row)) in rows:
                _add_runs(*rows[key], row, path)
            else:
                rows[key] = (path, copy.deepcopy(row))
    found = [row for _, row in rows.values()]
    done = {(row["store"], row["model"]) for row in found if row["runs"]}
    return {
        "erc_toolkit_board": VERSION,
        "stores": [store for _, store in stores.values()],
        # What failed on one machine and was done on another is done.
        "rows": [row for row in found if row["runs"] or (row["store"], row["model"]) not in done],
    }


def _add_runs(first: Path, row: BoardRow, other: BoardRow, path: Path) -> None:
    """Adds the runs of seeds that a row does not have."""
    known = {run["seed"]: run for run in row["runs"]}
    for run in other["runs"]:
        if (same := known.get(run["seed"])) is None:
            row["runs"].append(run)
        elif same["predicted"] != run["predicted"]:
            raise UserError(
                f"{path}: {row['title']} with seed {run['seed']} and the same settings predicts otherwise than in "
                f"{first} (on {other['device']}; there on {row['device']}); "
                "leave one of the boards out"
            )
    row["runs"].sort(key=lambda run: run["seed"])
    row["reason"] = "" if row["runs"] else row["reason"]
