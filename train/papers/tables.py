"""The tables of a paper, printed values and ours side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..reports.published import RECALL, PublishedRow, PublishedTable, published_systems
from ..scores.metrics import Spread
from ..scores.tables import ReportTable, mean_and_spread, percent
from ..studies.record import VariantRecord
from .ours import OurStudy

HEADS = {"weighted_precision": "wa-ACC", "weighted_f1": "wa-F1"}  # the paper's names
NAMING = "The paper's wa-ACC is the precision weighted by support; ours is the same measure."
MIXED = (
    "What the paper prints as ACC of a class is the precision in some rows and the recall in others, which the column "
    "ACC is says; the row below has the same measure of ours, and as wa-ACC its mean weighted by support."
)
NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus of the paper.

    Attributes:
        key: e.g. "iemocap".
        name: for display.
        studies: our studies by name.
        missing: why there are none, or empty.
    """

    key: str
    name: str
    studies: Mapping[str, OurStudy]
    missing: str = ""


def main_table(corpus: Corpus, number: str) -> ReportTable:
    """Tables 2 and 3: every system's precision and F1 of each class and overall, printed and ours in alternating rows.

    Systems that the paper does not have follow at the end.
    """
    classes, systems = published_systems(corpus.key, number)
    study = corpus.studies.get("models")
    ours = {} if study is None else dict(study.variants)
    rows, reasons = [], []
    for system in systems:
        cells = [_plain(value) for pair in zip(system.acc, system.f1, strict=True) for value in pair]
        overall = [_plain(system.wa_acc), _plain(system.weighted_f1)]
        rows.append([system.name, "printed", *cells, *overall, NOTHING, system.acc_is, system.selection])
        variant = ours.pop(system.variant or "", None)
        if study is not None and variant is not None:
            rows.append(_our_system(study, variant, classes, system.name, system.acc_is == RECALL))
        elif system.variant is None:
            reasons.append(f"{system.name}: {system.reason}")
    if study is not None:
        rows += [_our_system(study, variant, classes, f"{name} *", False) for name, variant in ours.items()]
    groups = [("", 2), *((label, 2) for label in classes), ("overall", 3), ("", 2)]
    head = ["Models", "", *(["ACC", "F1"] * len(classes)), *HEADS.values(), "interval of wa-F1", "ACC is", "epoch by"]
    title = f"{number}: {corpus.name}, test split, percent"
    note = " ".join([*missing_notes([corpus]), MIXED, INTERVALS, "* not in the paper's table.", *reason_notes(reasons)])
    return ReportTable(file_of(number), title, head, rows, note, groups)


def rows_table(table: PublishedTable, corpora: Sequence[Corpus], title: str, first: str) -> ReportTable:
    """Tables of variants (4, 5, 6) and of a grid (7): for each corpus the printed values and ours."""
    rows, reasons = [], []
    for row in table.rows:
        cells = []
        for corpus in corpora:
            printed = row.values.get(corpus.key, [])
            cells += [_plain(value) for value in printed or [None] * len(table.columns)]
            found, reason = _our_values(corpus.studies.get(table.study), row, table.columns)
            cells += found if printed else [NOTHING] * len(found)
            if reason and printed:
                reasons.append(f"{row.name} on {corpus.name}: {reason}")
        rows.append([row.name, *cells])
        if row.variant is None and not row.settings:
            reasons.append(f"{row.name}: {row.reason}")
    heads = [HEADS.get(name, name) for name in table.columns]
    groups = [("", 1)]
    for corpus in corpora:
        groups += [(f"{corpus.name}, printed", len(heads)), (f"{corpus.name}, ours", len(heads))]
    note = " ".join([*missing_notes(corpora), table.note, NAMING, INTERVALS, *reason_notes(reasons)]).strip()
    return ReportTable(
        file_of(table.number),
        f"{table.number}: {title}, test split, percent",
        [first, *(heads * 2 * len(corpora))],
        rows,
        note,
        groups,
    )


INTERVALS = "Ours: mean ± standard deviation over the seeds, and the 95 % interval over dialogues and seeds."


def _our_system(study: OurStudy, variant: VariantRecord, classes: Sequence[str], name: str, recall: bool) -> list[str]:
    known = study.record["labels"]
    means = [
        percent(study.mean(variant, label, measure)) if label in known else NOTHING
        for label in classes
        for measure in ("recall" if recall else "precision", "f1")
    ]
    test: Mapping[str, Spread] = variant.get("test") or {}
    bounds = study.interval(variant, "weighted_f1")
    reason = study.reason(variant)
    overall = [mean_and_spread(test.get(m)) for m in ("accuracy" if recall else "weighted_precision", "weighted_f1")]
    about = ["recall" if recall else "precision", study.record["protocol"]]
    return [f"{name}: {reason}" if reason else name, "ours", *means, *overall, _interval(bounds), *about]


def _our_values(study: OurStudy | None, row: PublishedRow, columns: Sequence[str]) -> tuple[list[str], str]:
    """A variant's cells, and why they are empty."""
    empty = [NOTHING] * len(columns)
    if study is None:
        return empty, ""
    variant = study.with_settings(row.settings) if row.settings else study.variants.get(row.variant or "")
    if variant is None:
        named = bool(row.variant or row.settings)
        return empty, "our study has no such variant" if named else ""
    test: Mapping[str, Spread] = variant.get("test") or {}
    cells = []
    for measure in columns:
        bounds = study.interval(variant, measure)
        cells.append(mean_and_spread(test.get(measure)) + (f" ({_interval(bounds)})" if bounds else ""))
    return cells, study.reason(variant)


def _interval(bounds: tuple[float, float] | None) -> str:
    return f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}" if bounds else NOTHING


def _plain(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def missing_notes(corpora: Sequence[Corpus]) -> list[str]:
    return [f"{corpus.name} of ours: {corpus.missing}." for corpus in corpora if corpus.missing]


def reason_notes(reasons: Sequence[str]) -> list[str]:
    return [f"Without a result of ours: {'; '.join(dict.fromkeys(reasons))}."] if reasons else []


def file_of(number: str) -> str:
    return number.lower().replace(" ", "_")
