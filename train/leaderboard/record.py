"""board.json: what a board knows about its stores and rows. Everything shown is computed from it.

It holds the predicted class of every test utterance, so that boards of several machines can be joined, and
differences tested, without the runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import numpy as np

from ...toolkit.base.errors import UserError
from ...toolkit.base.files import write_atomically
from ...toolkit.base.hashes import json_sha256
from ...toolkit.base.reading.plain_json import parse_json
from ...toolkit.store import FeatureStore
from ..scores.coded import coded, decoded, dialogue_lengths
from ..scores.predictions import Predictions
from ..scores.resampling import measures_of

BOARD, VERSION = "board.json", 1


class BoardStore(TypedDict):
    """A store: what it is called, the counts of its splits, and its labelled or unlabelled test utterances.

    `dialogues`: number of utterances of each test dialogue that the predictions have, in order; `true`: their classes
    as `coded`; `utterances`: SHA-256 of their ids.
    """

    name: str
    corpus: str
    content_sha256: str
    labels: list[str]
    splits: dict[str, int]
    dialogues: list[int]
    true: str
    utterances: str


class BoardRun(TypedDict):
    """A run with one seed. Scores are fractions; `best_on_test` is the highest weighted F1 on the test split of any of
    its epochs, `predicted` the classes of the test utterances as `coded`."""

    seed: int
    epoch: int
    epochs: int
    selected: float
    best_on_test: float
    seconds: float
    epoch_s: float
    peak_memory: int | None
    predicted: str


class Tuning(TypedDict):
    """A search: how many trials, in which space, the chosen settings, and their weighted F1 on the validation split."""

    trials: int
    space: dict[str, str]
    settings: list[str]
    value: float


class BoardRow(TypedDict):
    """A model on a store.

    `features` are those in use, by modality, as data.text and the like name them; `changes` the settings beside the
    recipe's, with what tuning chose; `config` all of them; `version`, `revision`, `torch` and `device`, with its number
    of threads, are those of the first run; `reason` says why there are no runs.
    """

    store: str
    model: str
    title: str
    features: dict[str, Any]
    recipe: str
    changes: list[str]
    config: dict[str, Any]
    tuned: Tuning | None
    version: str
    revision: str | None
    torch: str
    device: str
    parameters: int
    runs: list[BoardRun]
    reason: str


class Board(TypedDict):
    """The file. `asked`: what the command was given, which a folder keeps; absent from joined boards."""

    erc_toolkit_board: int
    stores: list[BoardStore]
    rows: list[BoardRow]
    asked: NotRequired[dict[str, Any]]


def empty_board(asked: dict[str, Any]) -> Board:
    """A board without rows."""
    return {"erc_toolkit_board": VERSION, "stores": [], "rows": [], "asked": asked}


def store_record(store: FeatureStore, tested: Predictions) -> BoardStore:
    """What a board keeps of a store, given the predictions of any run for its test split."""
    splits, counts = np.unique(store.column("split").astype(str), return_counts=True)
    return {
        "name": store.path.stem,
        "corpus": store.corpus,
        "content_sha256": store.content_hash,
        "labels": list(store.labels),
        "splits": dict(zip(splits.tolist(), counts.tolist(), strict=True)),
        "dialogues": dialogue_lengths(tested),
        "true": coded(tested.true),
        "utterances": json_sha256([str(one) for one in tested.id]),
    }


def scores_of_runs(store: BoardStore, row: BoardRow) -> dict[str, list[float]]:
    """Each measure of `erc_toolkit.train.scores.resampling.measures_of` for every run of a row, on the test split."""
    true, classes = decoded(store["true"]), len(store["labels"])
    labelled = true >= 0
    found: dict[str, list[float]] = {}
    for run in row["runs"]:
        confusion = np.zeros((classes, classes))
        np.add.at(confusion, (true[labelled], decoded(run["predicted"])[labelled]), 1)
        for name, value in measures_of(confusion).items():
            found.setdefault(name, []).append(float(value))
    return found


def f1_by_class(store: BoardStore, row: BoardRow) -> list[float]:
    """F1 of each class on the test split, a mean over the runs, fractions; 0 for a class without utterances."""
    true = decoded(store["true"])
    labelled, found = true >= 0, []
    for number in range(len(store["labels"])):
        values = []
        for run in row["runs"]:
            predicted, right = decoded(run["predicted"])[labelled] == number, true[labelled] == number
            both = int(predicted.sum() + right.sum())
            values.append(2 * int((predicted & right).sum()) / both if both else 0.0)
        found.append(sum(values) / len(values))
    return found


def row_key(row: BoardRow) -> str:
    """Identifies what a row is about: model, store and every setting, not the seeds or the machine."""
    return json_sha256([row["store"], row["model"], row["config"], row["features"]])


def write_board(out: Path, board: Board) -> None:
    """Writes OUT/board.json, a run a line, so that changes can be read."""
    text = json.dumps(board, ensure_ascii=False, indent=1)
    write_atomically(out / BOARD, (text + "\n").encode())


def is_board(path: Path) -> bool:
    """Whether a file is a board."""
    try:
        return bool(read_board(path))
    except UserError:
        return False


def read_board(path: Path) -> Board:
    """Reads a board, given its file or folder.

    Raises:
        UserError: there is none, or it is damaged or of a later version.
    """
    path = path / BOARD if path.is_dir() else path
    try:
        board = parse_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give the folder of a leaderboard") from None
    except ValueError:
        raise UserError(f"{path}: is not a leaderboard's {BOARD}") from None
    if not isinstance(board, dict) or type(version := board.get("erc_toolkit_board")) is not int:
        raise UserError(f"{path}: is not a leaderboard's {BOARD}")
    if version > VERSION:
        raise UserError(f"{path}: was written by a later version of erc-toolkit; update it")
    try:
        _check(board)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path}: damaged ({type(error).__name__}: {error}); make the board again") from None
    return cast(Board, board)


def _check(board: Mapping[str, Any]) -> None:
    """Raises a ValueError or the like if anything that is computed with has another form."""
    stores = {}
    for store in board["stores"]:
        for key in ("name", "corpus", "content_sha256", "utterances"):
            _is(store[key], str, key)
        _all(store["labels"], str, "labels")
        _all(store["dialogues"], int, "dialogues")
        for key, value in store["splits"].items():
            _is(value, int, f"splits.{key}")
        true = decoded(store["true"])
        if len(true) != sum(store["dialogues"]) or min(store["dialogues"], default=1) < 1:
            raise ValueError("dialogues and true differ")
        if true.size and true.max() >= len(store["labels"]):
            raise ValueError("a class without a name")
        stores[store["content_sha256"]] = store
    for row in board["rows"]:
        store = stores[row["store"]] if row["runs"] else None
        for key in ("model", "title", "recipe", "version", "torch", "device", "reason"):
            _is(row[key], str, key)
        _all(row["changes"], str, "changes")
        for key in ("features", "config"):
            _is(row[key], dict, key)
        for feature in row["features"].values():
            _is(feature, (str, dict), "features")
        _is(row["parameters"], int, "parameters")
        if row["revision"] is not None:
            _is(row["revision"], str, "revision")
        if row["tuned"] is not None:
            _all(row["tuned"]["settings"], str, "settings")
            _is(row["tuned"]["trials"], int, "trials")
        for run in row["runs"]:
            assert store is not None
            for key in ("seed", "epoch", "epochs"):
                _is(run[key], int, key)
            for key in ("selected", "best_on_test", "seconds", "epoch_s"):
                _is(run[key], (int, float), key)
            if run["peak_memory"] is not None:
                _is(run["peak_memory"], int, "peak_memory")
            predicted = decoded(run["predicted"])
            if len(predicted) != len(decoded(store["true"])):
                raise ValueError("predicted and true differ in length")
            if predicted.size and not 0 <= predicted.min() <= predicted.max() < len(store["labels"]):
                raise ValueError("a predicted class without a name")


def _is(value: object, kind: type | tuple[type, ...], key: str) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{key} is {value!r}"[:200])


def _all(values: Sequence[object], kind: type, key: str) -> None:
    _is(values, list, key)
    for value in values:
        _is(value, kind, key)
