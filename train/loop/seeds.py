"""Training with several seeds, and the mean and standard deviation of the results."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...toolkit.base.errors import UserError
from ...toolkit.base.files import write_atomically
from ...toolkit.base.lock import locked
from ...toolkit.base.outputs import check_output
from ...toolkit.base.reading.plain_json import parse_json
from ...toolkit.base.words import counted
from ...toolkit.store import FeatureStore
from ..config import Config
from ..scores.metrics import Measures, Spread
from ..scores.tables import mean_and_spread
from .records import SeedsSummary
from .trainer import train

SUMMARY = "summary.json"
MEASURES = ("weighted_f1", "accuracy", "weighted_precision", "macro_f1", "uar")


def train_seeds(
    store: FeatureStore,
    config: Config,
    out: Path,
    seeds: Sequence[int],
    device: str,
    notify: Callable[[str], None],
    **options: bool,
) -> SeedsSummary:
    """Trains once for each seed, in OUT/seed-N, and writes OUT/summary.json.

    Args:
        store, config, device, notify, options: as for `erc_toolkit.train.loop.trainer.train`.
        out: folder of the runs.
        seeds: seeds of the runs.

    Returns:
        protocol, seeds, `selected` and `test`: measure to {mean, std, values}. `std` is the sample standard deviation
        (n - 1), None for one seed; `test` is None if the store has no test split.

    Raises:
        UserError: as for `train`.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; --out must name a folder")
    with locked(out, "train", parents=True):
        if out.is_dir():
            check_output(out / SUMMARY, [store.path], earlier=_is_summary, overwrite=options.get("overwrite", False))
        return _train_seeds(store, config, out, seeds, device, notify, options)


def _train_seeds(
    store: FeatureStore,
    config: Config,
    out: Path,
    seeds: Sequence[int],
    device: str,
    notify: Callable[[str], None],
    options: Mapping[str, Any],
) -> SeedsSummary:
    runs = []
    for number, seed in enumerate(seeds, 1):
        notify(f"seed {seed} ({number} of {len(seeds)})")
        own = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
        out.mkdir(parents=True, exist_ok=True)
        runs.append(train(store, own, out / f"seed-{seed}", device, notify, name=f"seed {seed}: ", **options))
    tests = [run["test"] for run in runs if run["test"] is not None]  # of all runs or of none: they share the store
    summary: SeedsSummary = {
        "protocol": runs[0]["protocol"],
        "seeds": list(seeds),
        "runs": [run["run"] for run in runs],
        "selected": spread([run["selected"] for run in runs]),
        "test": spread(tests) if tests else None,
    }
    write_atomically(out / SUMMARY, json.dumps(summary, indent=1).encode())
    return summary


def _is_summary(path: Path) -> bool:
    try:
        return {"protocol", "seeds", "runs", "selected", "test"} == set(parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return False


def spread(measures: Sequence[Measures]) -> dict[str, Spread]:
    """Each of MEASURES over several runs: mean, sample standard deviation (None for one run) and every value."""
    found: dict[str, Spread] = {}
    for name in MEASURES:
        found[name] = spread_of([float(one[name]) for one in measures])
    return found


def spread_of(values: Sequence[float]) -> Spread:
    """Mean and sample standard deviation (None for one value) of some values, and they themselves."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": deviation, "values": list(values)}


def spread_lines(summary: SeedsSummary) -> list[str]:
    """The summary as lines for the user, in percent."""
    count, seeds = len(summary["seeds"]), ", ".join(map(str, summary["seeds"]))
    lines = [f"{counted(count, 'seed')} ({seeds}), protocol {summary['protocol']}: mean ± standard deviation"]
    for name, part in (("selected epoch", summary["selected"]), ("test", summary["test"])):
        if part is not None:
            shown = (f"{measure.replace('_', ' ')} {mean_and_spread(spread)}" for measure, spread in part.items())
            lines.append(f"  {name}: {', '.join(shown)}")
    return lines
