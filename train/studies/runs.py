"""Running a study: every variant with every seed, side by side, each once, and what came of it."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ...toolkit.base.cores import core_count
from ...toolkit.base.device import pick_device
from ...toolkit.base.errors import UserError
from ...toolkit.base.files import write_atomically
from ...toolkit.base.processes import Failure, work_off
from ...toolkit.store import FeatureStore
from ..config import protocol_label
from ..loop.plan import fingerprint_of, make_plan
from ..loop.run_folder import read_result
from ..loop.seeds import MEASURES, spread
from ..loop.trainer import finished_result, train
from .definition import DONE, FAILED, SKIPPED, Study, Variant
from .measures import cost, measure_run
from .model_tables import significance

STUDY, TABLE, LOG, MEASURED = "study.json", "results.csv", "train.log", "measured.json"


@dataclass(slots=True)
class StudyRun:
    """One training of a study.

    Attributes:
        variant, seed: what it is.
        folder: of the run.
        status: DONE, FAILED or SKIPPED (the store cannot serve it); empty while it waits.
        reason: why it is not done, in one line.
        result: what `train` returned, of `cost` None.
        measured: what the study measures besides.
    """

    variant: Variant
    seed: int
    folder: Path
    status: str = ""
    reason: str = ""
    result: dict[str, object] | None = None
    measured: dict[str, object] | None = None


def run_study(
    store_path: Path,
    study: Study,
    out: Path,
    recipe: str,
    changes: Sequence[str],
    seeds: Sequence[int],
    jobs: int,
    device: str,
    say: Callable[[str], None],
) -> dict[str, object]:
    """Trains what is not trained yet, measures, and writes OUT/study.json and OUT/results.csv after every run.

    Args:
        store_path: the store.
        study: what to run.
        out: folder of the study; a run lies in OUT/VARIANT/seed-N.
        recipe, changes: settings that all variants share.
        seeds: of the runs; `cost` takes the first alone.
        jobs: runs at a time; `cost` is always alone.
        device: "auto", "cpu", "cuda" or "cuda:N".
        say: takes lines for the user.

    Returns:
        What study.json holds: study, title, shows, measure, store, corpus, recipe, changes, protocol, seeds and
        variants: for each name, changes, runs (seed, folder, status, reason, measured) and, over the runs that are done,
        `selected` and `test` as `erc_toolkit.train.loop.seeds` gives them.

    Raises:
        UserError: settings are wrong, or `out` cannot be used.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; --out names a folder")
    alone = study.measure == "cost"
    seeds = list(seeds)[:1] if alone else list(seeds)
    runs = [StudyRun(v, seed, out / v.folder / f"seed-{seed}") for v in study.variants for seed in seeds]
    target = pick_device(device)
    with FeatureStore.open(store_path) as store:
        facts = {
            "study": study.name,
            "title": study.title,
            "shows": study.shows,
            "measure": study.measure,
            "store": {"path": str(store_path.resolve()), "content_sha256": store.content_hash},
            "corpus": store.corpus,
            "labels": store.labels,
            "recipe": recipe,
            "changes": list(changes),
            "seeds": seeds,
            "protocol": protocol_label(study.variants[0].config(recipe, changes)),
        }
        for run in runs:
            _take_up(run, study, store, recipe, changes, target)
    out.mkdir(parents=True, exist_ok=True)
    waiting = [run for run in runs if not run.status]
    say(f"study {study.name}: {study.title}; {len(study.variants)} variants, {len(seeds)} seeds; {_counts(runs)}")
    for run in runs:
        if run.status == SKIPPED and run.seed == seeds[0]:
            say(f"{run.variant.name}: skipped: {run.reason}")
    began = time.perf_counter()
    jobs = 1 if alone else max(1, min(jobs, len(waiting)))
    threads = max(1, core_count() // jobs)
    tasks = [(store_path, study, run.variant, run.seed, recipe, list(changes), run.folder, device) for run in waiting]
    gpus = torch.cuda.device_count() if target.type == "cuda" and target.index is None else 0
    for done, (number, outcome) in enumerate(work_off(work, tasks, jobs, threads, gpus), 1):
        run = waiting[number]
        if isinstance(outcome, Failure):
            run.status, run.reason = FAILED, outcome.reason
        else:
            run.status, (run.result, run.measured) = DONE, outcome
        _write(out, facts, runs)
        left = (time.perf_counter() - began) / done * (len(waiting) - done)
        say(f"[{done}/{len(waiting)}] {run.variant.name}, seed {run.seed}: {_said(run)}{_left(left)}")
    if study.measure == "models":
        facts["significance"] = _significance(out, study, runs)
    return _write(out, facts, runs)


def _significance(out: Path, study: Study, runs: Sequence[StudyRun]) -> dict[str, object] | None:
    """What holds between the variants whose every seed is done and tested; None where fewer than two are."""
    whole = {
        v.name: v.folder
        for v in study.variants
        if all(r.status == DONE and r.result and r.result["test"] for r in runs if r.variant.name == v.name)
    }
    return significance(out, whole) if len(whole) > 1 else None


def work(
    store_path: Path,
    study: Study,
    variant: Variant,
    seed: int,
    recipe: str,
    changes: list[str],
    folder: Path,
    device: str,
) -> tuple[dict[str, object] | None, dict[str, object] | None]:
    """Trains one run if it must and measures it; what it says goes to train.log in its folder.

    Returns:
        `train`'s result (None for `cost`) and what the study measures (None for `results`).
    """
    config = variant.config(recipe, [*changes, f"train.seed={seed}"])
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open(folder / LOG, "a", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stderr(log))
        store = stack.enter_context(FeatureStore.open(store_path))
        plan = make_plan(store, config)
        fingerprint = fingerprint_of(plan, pick_device(device))
        if study.measure == "cost":
            result, measured = None, cost(plan, device)
        else:
            result = train(store, config, folder, device, lambda line: print(line, file=log, flush=True), resume=True)
            measured = measure_run(study, folder, device)
        kept = {"fingerprint": fingerprint, "asked": _asked(study), "measured": measured}
        write_atomically(folder / MEASURED, json.dumps(kept, ensure_ascii=False).encode())
    return result, measured


def _take_up(
    run: StudyRun, study: Study, store: FeatureStore, recipe: str, changes: Sequence[str], target: torch.device
) -> None:
    """Sets the state of a run that is done already or cannot be done with this store."""
    config = run.variant.config(
        recipe, [*changes, f"train.seed={run.seed}"]
    )  # a wrong key ends the study before it begins
    try:
        plan = make_plan(store, config)
        if read_result(run.folder) is None:
            plan.model()
    except UserError as error:
        run.status, run.reason = SKIPPED, str(error)
        return
    fingerprint = fingerprint_of(plan, target)
    if study.measure != "cost" and read_result(run.folder) is not None:
        run.result = finished_result(run.folder, fingerprint)
    try:
        kept = json.loads((run.folder / MEASURED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if kept.get("fingerprint") == fingerprint and kept.get("asked") == _asked(study):
        if study.measure == "cost" or run.result is not None:
            run.status, run.measured = DONE, kept["measured"]


def _asked(study: Study) -> dict[str, object]:
    """What `measured.json` answers; equal to itself after a turn through JSON."""
    return {"measure": study.measure, "lengths": list(study.lengths), "levels": study.levels}


def _write(out: Path, facts: dict[str, object], runs: list[StudyRun]) -> dict[str, object]:
    variants: dict[str, dict[str, object]] = {}
    for run in runs:
        row = variants.setdefault(
            run.variant.name, {"name": run.variant.name, "changes": run.variant.changes, "runs": []}
        )
        told = {
            "seed": run.seed,
            "folder": str(run.folder.relative_to(out)),
            "status": run.status,
            "reason": run.reason,
        }
        row["runs"].append(told | {"result": run.result, "measured": run.measured})
    for row in variants.values():
        results = [run["result"] for run in row["runs"] if run["status"] == DONE and run["result"] is not None]
        for part in ("selected", "test"):
            found = [result[part] for result in results if result[part] is not None]
            row[part] = spread(found) if found else None
    study = {**facts, "variants": list(variants.values())}
    write_atomically(out / STUDY, json.dumps(study, ensure_ascii=False, indent=1).encode())
    write_atomically(out / TABLE, _table(list(variants.values())).encode())
    return study


def _table(variants: list[dict[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["variant", "seed", "status", *(f"{part}_{name}" for part in ("selected", "test") for name in MEASURES)]
    )
    for row in variants:
        for run in row["runs"]:
            result = run["result"] or {}
            cells = [(result.get(part) or {}).get(name, "") for part in ("selected", "test") for name in MEASURES]
            writer.writerow([row["name"], run["seed"], run["status"] or "waiting", *cells])
    return text.getvalue()


def _said(run: StudyRun) -> str:
    if run.status == FAILED:
        return f"failed: {run.reason} (see {run.folder / LOG})"
    if run.result is None:
        return f"{run.measured['parameters']:,} parameters, {run.measured['inference_ms']:.3f} ms an utterance"
    test = run.result["test"]
    part = f"test weighted F1 {100 * test['weighted_f1']:.2f}" if test else "no test split"
    return f"{part}; {run.result['seconds']:.1f} s"


def _left(seconds: float) -> str:
    return "" if seconds < 1 else f"; {seconds:.0f} s left" if seconds < 90 else f"; {seconds / 60:.0f} min left"


def _counts(runs: list[StudyRun]) -> str:
    names = (("done", DONE), ("skipped", SKIPPED), ("to do", ""))
    return ", ".join(f"{sum(run.status == status for run in runs)} {name}" for name, status in names)
