"""What a study measured besides results, as means over its seeds, for the terminal's tables and for the page."""

from __future__ import annotations

import math

from .definition import DONE


def measured_runs(study: dict[str, object]) -> list[tuple[str, list[dict]]]:
    """Each variant's name and what its finished runs measured."""
    return [
        (row["name"], [r["measured"] for r in row["runs"] if r["status"] == DONE and r["measured"]])
        for row in study["variants"]
    ]


def noise_means(runs: list[dict], which: str, levels: list[str]) -> list[float]:
    """Weighted F1 in percent at each level of noise on `which`; NaN where no run has it."""
    return [_mean([m[which][level]["weighted_f1"] for m in runs if m.get(which, {}).get(level)]) for level in levels]


def place_groups(study: dict[str, object]) -> list[str]:
    """Names of the groups of places that any run has, in the dialogue's order."""
    found = {group for _, runs in measured_runs(study) for m in runs for group in m["by_position"]}
    return sorted(found, key=lambda group: int(group.split()[0]))


def place_means(runs: list[dict], groups: list[str]) -> list[float]:
    """Weighted F1 in percent over all places and in each group; NaN where no run has it."""
    overall = _mean([m["overall"]["weighted_f1"] for m in runs if m["overall"]])
    return [
        overall,
        *(_mean([m["by_position"][g]["weighted_f1"] for m in runs if g in m["by_position"]]) for g in groups),
    ]


def _mean(fractions: list[float]) -> float:
    return 100 * sum(fractions) / len(fractions) if fractions else math.nan
