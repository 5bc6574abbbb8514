"""The files that a study writes: study.json with the complete record, and results.csv with one row per run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from ...toolkit.base.csv_cells import csv_text
from ...toolkit.base.errors import UserError
from ...toolkit.base.files import write_atomically
from ...toolkit.base.outputs import check_folder
from ...toolkit.base.reading.plain_json import parse_json
from ..loop.records import TrainResult
from ..loop.seeds import MEASURES
from ..scores.metrics import Spread

STUDY, TABLE = "study.json", "results.csv"
JOURNAL, SEARCH = "search.journal", "search"  # the record of a search, and its name there
DONE, FAILED, SKIPPED = "done", "failed", "skipped"  # status of a run; empty while it is pending


class RunRecord(TypedDict):
    """One run of a study.

    `folder`: relative to the study's folder; `reason`: why the run is not done; `result`: the return value of training;
    `measured`: the return value of the study's measure.
    """

    seed: int
    folder: str
    status: str
    reason: str
    result: TrainResult | None
    measured: Any


class VariantRecord(TypedDict):
    """A variant, its runs, and the scores of the finished runs on the selection split and on the test split."""

    name: str
    changes: dict[str, object]
    runs: list[RunRecord]
    selected: NotRequired[dict[str, Spread] | None]
    test: NotRequired[dict[str, Spread] | None]


class StoreRecord(TypedDict):
    """The feature store that the study used."""

    path: str
    content_sha256: str


class PairRecord(TypedDict):
    """Weighted F1 of the second variant minus the first's; `p_holm` is the Holm-corrected p value."""

    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float


class SignificanceRecord(TypedDict):
    """Conclusion of the measure `models`: each variant's interval [low, high] of weighted F1, and every pair.

    `warning` says that the test split has few dialogues; studies of earlier versions have none.
    """

    intervals: dict[str, list[float]]
    pairs: list[PairRecord]
    warning: NotRequired[str]


class BestRecord(TypedDict):
    """The best trial of a search; `settings` are in the form that `--set` accepts."""

    number: int
    value: float
    settings: list[str]


class StudyRecord(TypedDict):
    """The content of study.json. A measure's `conclude` may add further keys.

    `settings`: of the measure; `notes`: settings that cannot act or are left out; `features`: those that each variant
    uses, by modality, as data.text and the like name them; `contents`: the SHA-256 of each of these features; `engine`:
    the cluster on which runs were last performed, if they were.
    """

    study: str
    title: str
    shows: str
    measure: str
    store: StoreRecord
    corpus: str
    labels: list[str]
    recipe: str
    changes: list[str]
    settings: NotRequired[dict[str, object]]
    seeds: list[int]
    protocol: str
    notes: NotRequired[list[str]]
    features: NotRequired[dict[str, dict[str, Any]]]
    contents: NotRequired[dict[str, str]]
    engine: NotRequired[str]
    significance: NotRequired[SignificanceRecord | None]
    variants: list[VariantRecord]
    best: NotRequired[BestRecord]


def plain_json(value: object, where: str) -> Any:
    """A measure's value after a JSON round trip, so that it equals what is later read from disk.

    Raises:
        UserError: it is not JSON-serializable; the message begins with `where`.
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} returned a value that is not JSON-serializable ({error})") from None


def check_study_folder(out: Path, inputs: Sequence[Path], overwrite: bool) -> None:
    """Checks that a study may be written to, or continued in, a folder; arguments and errors as for `check_folder`."""
    check_folder(out, [STUDY, TABLE, JOURNAL], inputs, earlier=_is_study, overwrite=overwrite)


def _is_study(folder: Path) -> bool:
    """Whether there is a study in a folder, or a search that was interrupted before its first study.json."""
    try:
        if (folder / STUDY).exists():
            return bool(read_study(folder))
        with open(folder / JOURNAL, encoding="utf-8") as journal:
            return parse_json(journal.readline(10_000))["study_name"] == SEARCH
    except (UserError, OSError, ValueError, LookupError, TypeError):
        return False


def write_study(out: Path, study: StudyRecord) -> None:
    """Writes OUT/study.json and OUT/results.csv."""
    write_atomically(out / STUDY, json.dumps(study, ensure_ascii=False, indent=1).encode())
    write_atomically(out / TABLE, results_csv(study["variants"]).encode())


def read_study(folder: Path) -> StudyRecord:
    """Reads a study that `write_study` wrote.

    Raises:
        UserError: the file is damaged.
    """
    try:
        study = parse_json((folder / STUDY).read_text(encoding="utf-8"))
        if not isinstance(study, dict) or not isinstance(study["measure"], str):
            raise ValueError
        if not all(isinstance(variant["runs"], list) for variant in study["variants"]):
            raise ValueError
        return cast(StudyRecord, study)
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder / STUDY}: damaged; run the study again with --overwrite (finished runs are kept)"
        ) from None


def results_csv(variants: Iterable[VariantRecord]) -> str:
    """One row per run: variant, seed, status and scores."""
    scores = [(part, name) for part in ("selected", "test") for name in MEASURES]
    rows: list[list[object]] = [["variant", "seed", "status", *(f"{part}_{name}" for part, name in scores)]]
    for variant in variants:
        for run in variant["runs"]:
            result: dict[str, Any] = dict(run["result"] or {})
            cells = [(result.get(part) or {}).get(name, "") for part, name in scores]
            rows.append([variant["name"], run["seed"], run["status"] or "waiting", *cells])
    return csv_text(rows)


def name_with_note(variant: VariantRecord) -> str:
    """The variant's name with, in parentheses, the status of unfinished runs, e.g. "wide (2 failed)"."""
    other = [run for run in variant["runs"] if run["status"] != DONE]
    if not other:
        return variant["name"]
    failed = sum(run["status"] == FAILED for run in other)
    note = f"{failed} failed" if failed else "skipped" if other[0]["status"] else "not run"
    return f"{variant['name']} ({note})"
