"""Tables 8 and 9 of the paper: what its parts cost, and the size and time of every model."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from ..reports.published import PublishedTable
from ..scores.tables import ReportTable
from ..studies.measures.cost import change
from .tables import NOTHING, Corpus, file_of, missing_notes, reason_notes

# Our measures of Table 8 under the paper's names, with a number of decimals.
_COLUMNS = {
    "inference_ms": ("Inference Time (ms)", 4),
    "throughput": ("Throughput (samples/s)", 1),
    "batch_ms": ("Batch Time (ms)", 2),
    "tflops": ("FLOPs/s (T)", 4),
}


def overhead_table(table: PublishedTable, corpora: Sequence[Corpus]) -> ReportTable:
    """Table 8: baseline and change of each module on each corpus, the printed row above ours."""
    rows, devices = [], set()
    for row in table.rows:
        for corpus in corpora:
            printed = row.values.get(corpus.key, [])
            added = row.content.get(f"{corpus.key}_change", [])
            rows.append([row.name, corpus.name, "printed", *_pairs(table.columns, printed, added)])
            study = corpus.studies.get(table.study)
            summaries = {} if study is None else study.summaries
            first, second = (summaries.get(name) for name in (row.content["baseline"], row.variant or ""))
            cells = [NOTHING] * 2 * len(table.columns)
            if first is not None and second is not None and first.summary and second.summary:
                found = [change(name, first.summary, second.summary) for name in table.columns]
                cells = _pairs(table.columns, [one[0] for one in found], [one[1] for one in found])
                devices.add(first.summary["device"])
            rows.append([row.name, corpus.name, "ours", *cells])
    head = ["Module", "Dataset", "", *(["Baseline", "Δ (Change)"] * len(table.columns))]
    groups = [("", 3), *((_COLUMNS[name][0], 2) for name in table.columns)]
    device = f"Ours on {', '.join(sorted(devices))}, variants timed in turns." if devices else ""
    title = f"{table.number}: computational overhead of DiffRGCN and of adaptive modality balancing"
    note = " ".join([*missing_notes(corpora), table.note, device]).strip()
    return ReportTable(file_of(table.number), title, head, rows, note, groups)


def runtime_table(table: PublishedTable, corpora: Sequence[Corpus]) -> ReportTable:
    """Table 9: parameters and run time of every model, printed and ours; models that the paper lacks at the end."""
    rows, reasons, shown = [], [], set()
    for row in table.rows:
        printed = [f"{row.content['parameters_millions']:.2f}", _ours_size(corpora, table.study, row.variant)]
        for corpus in corpora:
            seconds = row.values.get(corpus.key, [])
            printed += [f"{seconds[0]:.1f}" if seconds else NOTHING, _ours_time(corpus, table.study, row.variant)]
        rows.append([row.name, *printed])
        shown.add(row.variant)
        if row.variant is None:
            reasons.append(f"{row.name}: {row.reason}")
    names = dict.fromkeys(n for c in corpora if (s := c.studies.get(table.study)) for n in s.summaries)
    for name in names:
        if name not in shown:
            cells = [NOTHING, _ours_size(corpora, table.study, name)]
            for corpus in corpora:
                cells += [NOTHING, _ours_time(corpus, table.study, name)]
            rows.append([f"{name} *", *cells])
    head = ["Method", *(["printed", "ours"] * (1 + len(corpora)))]
    groups = [("", 1), ("Params (M)", 2), *((f"{corpus.name} Runtime (s)", 2) for corpus in corpora)]
    note = " ".join(
        [
            *missing_notes(corpora),
            table.note,
            *_device(corpora, table.study),
            "* not in the paper's table.",
            *reason_notes(reasons),
        ]
    )
    return ReportTable(file_of(table.number), f"{table.number}: parameters and run time", head, rows, note, groups)


def _pairs(columns: Sequence[str], values: Sequence[float], changes: Sequence[float]) -> list[str]:
    cells = []
    for name, value, added in zip(columns, values, changes, strict=True):
        digits = _COLUMNS[name][1]
        share = f" ({100 * added / value:+.2f} %)" if value else ""
        cells += [f"{value:,.{digits}f}", f"{added:+,.{digits}f}{share}"]
    return cells


def _summary(corpus: Corpus, study: str, variant: str | None) -> Any:
    found = corpus.studies.get(study)
    one = None if found is None else found.summaries.get(variant or "")
    return None if one is None else one.summary


def _ours_size(corpora: Sequence[Corpus], study: str, variant: str | None) -> str:
    """Millions of parameters, of the first corpus that has the model: the paper prints one number too."""
    found = [cost.parameters for corpus in corpora if (cost := _summary(corpus, study, variant))]
    return f"{found[0] / 1e6:.2f}" if found else NOTHING


def _ours_time(corpus: Corpus, study: str, variant: str | None) -> str:
    cost = _summary(corpus, study, variant)
    return NOTHING if cost is None else f"{cost.seconds:.1f}"


def _device(corpora: Sequence[Corpus], study: str) -> list[str]:
    costs = [one.summary for c in corpora if (s := c.studies.get(study)) for one in s.summaries.values() if one.summary]
    if not costs:
        return []
    epochs = statistics.median(cost.epochs for cost in costs)
    return [f"Ours on {costs[0].device}, {epochs:g} epochs in the median."]
