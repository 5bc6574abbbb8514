"""The tables of `benchmarks/gpu.py`."""

from __future__ import annotations

from typing import Any

from gpu_steps.lines import Row

SPEEDUP, TRAINING_S, TEXT_S = 50, 60, 30
IEMOCAP_EPOCHS = 61


def results(report: Row, table: str, **key: Any) -> list[Row]:
    """The keys and values of all measured rows of a table whose key has these entries."""
    rows = [row for step in report["steps"].values() for row in step["results"]]
    return [
        {**row["key"], **row["values"]}
        for row in rows
        if row["table"] == table and row["status"] == "done" and key.items() <= row["key"].items()
    ]


def targets(report: Row) -> list[Row]:
    """What was wanted, what was measured, and whether that is enough; None if it was not measured."""
    found = []
    for corpus in ("iemocap", "meld"):
        what = f"an epoch of {corpus.upper()}'s shape {SPEEDUP} times as fast as the naive one on the CPU"
        rows = [row for row in results(report, "One epoch", corpus=corpus) if "naive CPU / this" in row]
        ours = [row for row in rows if not row["how"].startswith("naive")]
        best = max(ours, key=lambda row: row["naive CPU / this"], default=None)
        shown = best and f"{best['naive CPU / this']:.1f} times ({best['how']})"
        found.append(target(report, what, shown, best and best["naive CPU / this"] >= SPEEDUP))
    what = f"IEMOCAP's {IEMOCAP_EPOCHS} epochs in less than {TRAINING_S} s"
    rows = results(report, "IEMOCAP's whole training")
    if not rows:
        epochs = [r for r in results(report, "One epoch", corpus="iemocap") if not r["how"].startswith("naive")]
        rows = [{"how": r["how"], "s": IEMOCAP_EPOCHS * r["s"], "note": "computed from one epoch"} for r in epochs]
    best = min(rows, key=lambda row: row["s"], default=None)
    shown = best and f"{best['s']:.1f} s ({best['how']}; {best['note']})"
    found.append(target(report, what, shown, best and best["s"] < TRAINING_S))
    what = f"roberta-large over 13,708 utterances in less than {TEXT_S} s"
    rows = [
        row
        for row in results(report, "Encoders with random weights", encoder="roberta-large")
        if row["items"] == 13_708 and row["arithmetic"] in ("float32", "tf32", "bfloat16")
    ]
    shown = ", ".join(f"{row['s']:.1f} s in {row['arithmetic']}" for row in rows)
    slowest = max((row["s"] for row in rows), default=None)
    fastest = min((row["s"] for row in rows), default=None)
    met = None if slowest is None or fastest is None else "in some" if fastest < TEXT_S <= slowest else fastest < TEXT_S
    found.append(target(report, what, shown, met))
    return found


def target(report: Row, what: str, shown: str | None, met: bool | str | None) -> Row:
    """A row of the targets; small sizes and the CPU say nothing about them."""
    if report["options"]["small"] or report["options"]["device"] == "cpu" or not shown:
        return {"target": what, "measured": "not measured", "met": None}
    return {"target": what, "measured": shown, "met": met}


def markdown(report: Row) -> str:
    """The report as tables."""
    environment, options = report["environment"], report["options"]
    size = ", small sizes: a check of the script, not a measurement" if options["small"] else ""
    parts = [
        f"{environment['device']} ({environment['device name']}), {environment['date']}{size}",
        "## Environment",
        grid([{"": name, "value": value} for name, value in environment.items() if name != "date"]),
        "## Targets",
        grid([{"target": t["target"], "measured": t["measured"], "met?": t["met"]} for t in report["targets"]]),
        "## Steps",
        grid(
            [
                {"step": name, "status": s["status"], "s": s["seconds"], "limit s": s["limit"], "why": s["reason"]}
                for name, s in report["steps"].items()
            ]
        ),
    ]
    tables: dict[str, list[Row]] = {}
    for step in report["steps"].values():
        for row in step["results"]:
            tables.setdefault(row["table"], []).append(row)
    for title, rows in tables.items():
        parts += [f"## {title}", grid([line(row) for row in rows if not _only_cuda(row)])]
        if left_out := [", ".join(map(str, row["key"].values())) for row in rows if _only_cuda(row)]:
            parts.append(f"Skipped, {rows_reason(rows)}: {'; '.join(left_out)}.")
        if title in NOTES:
            parts.append(NOTES[title])
    return "\n\n".join(part for part in parts if part) + "\n"


NOTES = {
    "Agreement with the CPU": "Largest differences, each relative to the largest number of the CPU's float32 tensor "
    '(for gradients at least a thousandth of the model\'s largest); "norm": all gradients together, norm of the '
    "difference over norm. No dropout.",
    "Agreement with one operation after the other": "As above, against the device itself in float32; the worst of "
    "three batches of one size, two of which repeat what the first recorded or compiled.",
    "One epoch": 'A training pass and a pass over the test split. "s" is the median after two epochs; naive / this: '
    "how many times as long the naive version takes, which runs in float32. Share: of the epoch's time.",
    "Encoders with random weights": "Difference: of the features from those in float32, relative to the largest.",
    "Killed and resumed": "Largest relative differences from a run that nothing interrupted.",
}


def _only_cuda(row: Row) -> bool:
    return row["status"] == "skipped" and row["reason"] in _ELSEWHERE


_ELSEWHERE = ("CUDA only", "the device is the CPU", "torch.compile is for CUDA here", "a CPU has no limit to run into")


def rows_reason(rows: list[Row]) -> str:
    """Why rows of a table are for another device."""
    return " and ".join(dict.fromkeys(row["reason"] for row in rows if _only_cuda(row)))


def line(row: Row) -> Row:
    """A result as a line of its table."""
    if row["status"] == "done":
        return {**row["key"], **row["values"]}
    return {**row["key"], "note": f"{row['status']}: {row['reason']}"}


def grid(rows: list[Row]) -> str:
    """Rows as a table; columns in the order of their first appearance, the note last."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    columns = [c for c in columns if c in ("", "s") or any(row.get(c) not in (None, "") for row in rows)]
    columns.sort(key=lambda column: column == "note")
    lines = [columns, ["---"] * len(columns), *([shown(row.get(column)) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) if rows else ""


def shown(value: Any) -> str:
    """A value in a cell."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value).replace("|", "/")
