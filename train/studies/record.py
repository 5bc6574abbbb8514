"""What a study leaves on disk: study.json, which holds everything, and results.csv, with a line for each run."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from ...toolkit.base.errors import UserError
from ...toolkit.base.files import write_atomically
from ..loop.seeds import MEASURES

STUDY, TABLE = "study.json", "results.csv"
DONE, FAILED, SKIPPED = "done", "failed", "skipped"  # what became of a run; empty while it waits


class SpreadRecord(TypedDict):
    """A score over the seeds, as fractions; `std` is that of a sample, None for one seed."""

    mean: float
    std: float | None
    values: list[float]


class RunResult(TypedDict):
    """What `erc_toolkit.train.loop.trainer.train` returns."""

    run: str
    protocol: str
    seed: int
    device: str
    parameters: int
    seconds: float
    epochs: int
    selected: dict[str, Any]
    test: dict[str, Any] | None


class RunRecord(TypedDict):
    """A run: its folder below the study's, status, why it is not done, result of training, and what was measured."""

    seed: int
    folder: str
    status: str
    reason: str
    result: RunResult | None
    measured: Any


class VariantRecord(TypedDict):
    """A variant with its runs and, over those that are done, each score on the selecting and on the test split."""

    name: str
    changes: dict[str, object]
    runs: list[RunRecord]
    selected: NotRequired[dict[str, SpreadRecord] | None]
    test: NotRequired[dict[str, SpreadRecord] | None]


class StoreRecord(TypedDict):
    """Which store the study used."""

    path: str
    content_sha256: str


class PairRecord(TypedDict):
    """How the second variant's weighted F1 differs from the first's; `p_holm` is corrected for the number of pairs."""

    first: str
    second: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float


class SignificanceRecord(TypedDict):
    """What the measure `models` concludes: variant to [low, high] of its weighted F1, and every pair."""

    intervals: dict[str, list[float]]
    pairs: list[PairRecord]


class BestRecord(TypedDict):
    """The best trial of a search; `settings` as `--set` takes them."""

    number: int
    value: float
    settings: list[str]


class StudyRecord(TypedDict):
    """The content of study.json. What a measure concludes over all runs is added under keys of its own."""

    study: str
    title: str
    shows: str
    measure: str
    store: StoreRecord
    corpus: str
    labels: list[str]
    recipe: str
    changes: list[str]
    seeds: list[int]
    protocol: str
    significance: NotRequired[SignificanceRecord | None]
    variants: list[VariantRecord]
    best: NotRequired[BestRecord]


def write_study(out: Path, study: StudyRecord) -> None:
    """Writes OUT/study.json and OUT/results.csv."""
    write_atomically(out / STUDY, json.dumps(study, ensure_ascii=False, indent=1).encode())
    write_atomically(out / TABLE, results_csv(study["variants"]).encode())


def read_study(folder: Path) -> StudyRecord:
    """What `write_study` wrote.

    Raises:
        UserError: it is damaged.
    """
    try:
        study = json.loads((folder / STUDY).read_text(encoding="utf-8"))
        if not isinstance(study, dict) or not isinstance(study["measure"], str):
            raise ValueError
        if not all(isinstance(variant["runs"], list) for variant in study["variants"]):
            raise ValueError
        return cast(StudyRecord, study)
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{folder / STUDY}: damaged; run the study again, which keeps the runs that are done") from None


def results_csv(variants: Iterable[VariantRecord]) -> str:
    """A line for each run: variant, seed, status and its scores."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    scores = [(part, name) for part in ("selected", "test") for name in MEASURES]
    writer.writerow(["variant", "seed", "status", *(f"{part}_{name}" for part, name in scores)])
    for variant in variants:
        for run in variant["runs"]:
            result: dict[str, Any] = dict(run["result"] or {})
            cells = [(result.get(part) or {}).get(name, "") for part, name in scores]
            writer.writerow([variant["name"], run["seed"], run["status"] or "waiting", *cells])
    return text.getvalue()


def name_with_note(variant: VariantRecord) -> str:
    """The variant's name and, in brackets, what became of runs that are not done: "wide (2 failed)"."""
    other = [run for run in variant["runs"] if run["status"] != DONE]
    if not other:
        return variant["name"]
    failed = sum(run["status"] == FAILED for run in other)
    note = f"{failed} failed" if failed else "skipped" if other[0]["status"] else "not run"
    return f"{variant['name']} ({note})"
