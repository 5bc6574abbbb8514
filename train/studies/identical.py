"""Variants that came out exactly the same although their settings differ: what is varied did not act."""

from __future__ import annotations

from pathlib import Path

from ..scores.predictions import PREDICTIONS
from .record import DONE, StudyRecord


def identical_notes(study: StudyRecord, out: Path) -> list[str]:
    """A line for each group of variants whose trained models predict exactly the same with every seed."""
    groups: dict[tuple[bytes, ...], list[str]] = {}
    for variant in study["variants"]:
        runs = variant["runs"]
        files = [out / run["folder"] / PREDICTIONS for run in runs]
        if all(run["status"] == DONE and run["result"] for run in runs) and all(file.is_file() for file in files):
            groups.setdefault(tuple(file.read_bytes() for file in files), []).append(variant["name"])
    return [
        f"{'; '.join(names)}: predict exactly the same; what distinguishes them has no effect here, or none before the "
        "selected epoch"
        for names in groups.values()
        if len(names) > 1
    ]
