"""Runs a study: trains every variant with every seed, in parallel, and collects the results."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from ...toolkit.base.cores import core_count, core_shares, cores_in_words, own_cores
from ...toolkit.base.device import pick_device
from ...toolkit.base.disk import disk_faults
from ...toolkit.base.errors import UserError, one_line
from ...toolkit.base.files import write_atomically
from ...toolkit.base.processes import Failure, work_off
from ...toolkit.base.progress import Stages, logs_json, time_in_words
from ...toolkit.base.reading.plain_json import parse_json
from ...toolkit.base.reading.plain_numbers import parse_whole
from ...toolkit.base.words import counted
from ...toolkit.store import FeatureStore
from ..config import Config, protocol_label
from ..data.shared import FOLDER, sharing
from ..loop.plan import Plan, fingerprint_of, make_plan
from ..loop.records import TrainResult
from ..loop.run_folder import read_result
from ..loop.seeds import spread
from ..loop.trainer import finished_result, train
from .applied import PreparedVariant, feature_contents, idle_notes, left_out_notes, pin_in_words, prepare
from .definition import Study, Variant
from .identical import identical_notes
from .measures.base import Measure, RunAtHand
from .measures.registry import find_measure
from .record import DONE, FAILED, SKIPPED, STUDY, StudyRecord, VariantRecord, plain_json, read_study, write_study
from .reuse import KnownRuns

LOG, MEASURED = "train.log", "measured.json"


@dataclass(slots=True)
class StudyRun:
    """One training of a study.

    Attributes:
        variant, seed: identify the run.
        folder: the run folder.
        prepared: the settings of the variant.
        status: DONE, FAILED or SKIPPED (the store does not contain what the run needs); empty while it is pending.
        reason: why the run is not done, in one line.
        result: the return value of `train`; None if the measure does not train.
        measured: the return value of the study's measure.
    """

    variant: Variant
    seed: int
    folder: Path
    prepared: PreparedVariant
    status: str = ""
    reason: str = ""
    result: TrainResult | None = None
    measured: Any = None


class Perform(Protocol):
    """Performs runs elsewhere than in processes of this machine; `where` says where."""

    @property
    def where(self) -> str: ...

    def __call__(self, tasks: Sequence[RunTask], jobs: int, threads: int) -> Iterator[tuple[int, object]]:
        """Yields the index of each task and what `work` returns for it, or a `Failure`, in order of completion.

        Args:
            tasks: the runs, whose folders are here, and are to be as `work` leaves them.
            jobs: how many at a time.
            threads: PyTorch threads of each.
        """
        ...


@dataclass(frozen=True, slots=True)
class RunTask:
    """Everything a worker process needs to perform a run; the attributes are those of `run_study` and `StudyRun`.

    Attributes:
        shared: the folder of `erc_toolkit.train.data.shared` where several runs work at once, None otherwise.
    """

    store_path: Path
    study: Study
    variant: Variant
    seed: int
    recipe: str
    changes: list[str]
    folder: Path
    device: str
    shared: Path | None = None


def run_study(
    store_path: Path,
    study: Study,
    out: Path,
    recipe: str,
    changes: Sequence[str],
    seeds: Sequence[int],
    jobs: int,
    device: str,
    notify: Callable[[str], None],
    reuse: Sequence[Path] = (),
    perform: Perform | None = None,
) -> StudyRecord:
    """Trains and measures the runs that are not done, and updates OUT/study.json and OUT/results.csv after each.

    Args:
        store_path: the feature store.
        study: the study to run.
        out: the study's folder; each run is written to OUT/VARIANT/seed-N.
        recipe, changes: settings shared by all variants.
        seeds: seeds of the runs; a measure that does not train uses only the first.
        jobs: number of parallel runs; 1 if the measure does not train, so that its timings are undisturbed.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        notify: called with each line of progress.
        reuse: folders of runs and studies, from which a finished run that is exactly the same is copied.
        perform: performs the runs; None for processes of this machine.

    Returns:
        The content of study.json.

    Raises:
        UserError: the settings are invalid, `out` is not usable, or the measure is not installed.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; --out must be a folder")
    measure = find_measure(study.measure)
    seeds = list(seeds) if measure.trains else list(seeds)[:1]
    shared = [*study.shared, *changes]
    target = pick_device(device)
    with FeatureStore.open(store_path) as store:
        begun = {}
        if (out / STUDY).is_file():
            with contextlib.suppress(UserError):  # damaged, and to be overwritten
                begun = read_study(out).get("features", {})
        plans = prepare(study, store, recipe, shared, begun, str(out))
        runs = [
            StudyRun(v, seed, out / v.folder / f"seed-{seed}", plans[v.name]) for v in study.variants for seed in seeds
        ]
        known = KnownRuns(reuse)
        for run in runs:
            _restore(run, study, measure, store, recipe, target, known)
        notes = idle_notes(study.variants, [plan.config for plan in plans.values()], shared)
        record: StudyRecord = {
            "study": study.name,
            "title": study.title,
            "shows": study.shows,
            "measure": study.measure,
            "store": {"path": str(store_path.resolve()), "content_sha256": store.content_hash},
            "corpus": store.corpus,
            "labels": store.labels,
            "recipe": recipe,
            "changes": shared,
            "settings": study.settings,
            "seeds": seeds,
            "protocol": protocol_label(plans[study.variants[0].name].config),
            "notes": [*notes, *left_out_notes(plans)],
            "features": {name: plan.pins for name, plan in plans.items()},
            "contents": feature_contents(plans, store),
            "variants": [],
        }
    out.mkdir(parents=True, exist_ok=True)
    record["variants"] = _variant_records(out, runs)
    write_study(out, record)  # by which the folder is known as a study's
    waiting = [run for run in runs if not run.status]
    if measure.together and waiting:
        # In turns, so every variant is measured again: timings of another time are not comparable.
        waiting = [run for run in runs if run.status != SKIPPED]
    notify(f"study {study.name}: {study.title}; {_size(len(study.variants), len(seeds))}; {_counts(runs)}")
    for pins in {json.dumps(plan.pins): plan.pins for plan in plans.values()}.values():
        notify(f"features: {', '.join(map(pin_in_words, pins.values()))}")
    if known.taken:
        notify(f"{counted(known.taken, 'training')} taken over from other studies")
    for line in record["notes"]:
        notify(f"note: {line}")
    for run in runs:
        if run.status == SKIPPED and run.seed == seeds[0]:
            notify(f"{run.variant.name}: skipped: {run.reason}")
    jobs = max(1, min(jobs, len(waiting))) if measure.trains else 1
    threads = threads_per_run(jobs)
    gpus = torch.cuda.device_count() if target.type == "cuda" and target.index is None else 0
    shared = out / FOLDER if jobs > 1 and perform is None else None  # of processes of this machine
    tasks = [
        RunTask(store_path, study, run.variant, run.seed, recipe, run.prepared.changes, run.folder, device, shared)
        for run in waiting
    ]
    if jobs > 1 and perform is None:
        notify(_together_in_words(jobs, threads))
    began, total = time.perf_counter(), len(waiting)
    if measure.together and tasks:
        outcomes = _together(tasks, threads, gpus)  # here, also if others are performed elsewhere
    elif perform is not None and tasks:
        record["engine"] = perform.where
        outcomes = perform(tasks, jobs, threads)
    else:
        outcomes = work_off(work, [(task,) for task in tasks], jobs, threads, gpus)
    # Workers end before the folder that they share.
    with sharing(shared), contextlib.closing(cast(Any, outcomes)), Stages(bars=False) as stages:  # a run may take hours
        bar = stages.stage(f"study {study.name}", total)
        for done, (number, outcome) in enumerate(outcomes, 1):
            run = waiting[number]
            if isinstance(outcome, Failure):
                run.status, run.reason = FAILED, outcome.reason
            else:
                run.status, (run.result, run.measured) = DONE, cast(tuple[TrainResult | None, Any], outcome)
            record["variants"] = _variant_records(out, runs)
            write_study(out, record)
            left = (time.perf_counter() - began) / done * (total - done)
            notify(f"[{done}/{total}] {run.variant.name}, seed {run.seed}: {_report(run, measure)}{_left(left)}")
            if not logs_json():
                bar.said()
            bar.at(done, total, f"{run.variant.name}, seed {run.seed}")
    record["variants"] = _variant_records(out, runs)
    for line in (found := identical_notes(record, out)):
        notify(f"note: {line}")
    record["notes"] = [*record["notes"], *found]
    record = _with_conclusion(record, measure, out)
    write_study(out, record)
    return record


def threads_per_run(jobs: int) -> int:
    """PyTorch threads of each of `jobs` parallel runs: OMP_NUM_THREADS if it is set, or else an equal share."""
    given = parse_whole(os.environ.get("OMP_NUM_THREADS", "").split(",")[0])
    return given if given else max(1, core_count() // jobs)


def _together_in_words(jobs: int, threads: int) -> str:
    """How parallel runs divide the processor, as `work_off` does it."""
    shares = core_shares(jobs, threads)
    where = "" if shares is None else f", bound to cores {' | '.join(map(cores_in_words, shares))}"
    return f"{jobs} runs at a time, {counted(threads, 'thread')} each{where}"


def _together(tasks: Sequence[RunTask], threads: int, gpus: int) -> Iterator[tuple[int, object]]:
    """Measures all runs in one process, for measures that compare timings; yields as `work_off` does."""
    for _, outcome in work_off(work_together, [(tasks,)], 1, threads, gpus):
        for number in range(len(tasks)):
            yield number, outcome if isinstance(outcome, Failure) else cast(list[object], outcome)[number]


def _with_conclusion(record: StudyRecord, measure: Measure, out: Path) -> StudyRecord:
    """Inserts the measure's conclusion over all runs before the record's variants."""
    concluded = measure.conclude(record, out)
    if taken := [key for key in concluded if key in record]:
        raise UserError(
            f"measure {measure.name!r}: conclude() returns the key {taken[0]!r}, which study.json already has"
        )
    found: dict[str, Any] = {**record, **plain_json(concluded, f"measure {measure.name!r}: conclude()")}
    found["variants"] = found.pop("variants")
    return cast(StudyRecord, found)


def work(task: RunTask) -> tuple[TrainResult | None, Any]:
    """Trains one run if necessary and measures it; messages and errors are logged to train.log in its folder.

    Returns:
        The result of `train` (None if the measure does not train) and the return value of the measure.
    """
    with _logged([task]) as notify:
        measure = find_measure(task.study.measure)
        with FeatureStore.open(task.store_path) as store:
            plan = make_plan(store, _config(task))
            result = None
            if measure.trains:
                if cores := own_cores():
                    notify(f"processor cores: {cores_in_words(cores)}")
                result = train(store, plan.config, task.folder, task.device, notify, resume=True, shared=task.shared)
            value = measure.measure(RunAtHand(plan, task.folder, task.device), task.study.settings)
            return result, _kept(task, plan, value)


def work_together(tasks: Sequence[RunTask]) -> list[tuple[None, Any] | Failure]:
    """Measures several runs in turns, for a measure that is `together` and does not train; one may fail alone."""
    measure = find_measure(tasks[0].study.measure)
    with _logged(tasks), FeatureStore.open(tasks[0].store_path) as store:
        plans = [make_plan(store, _config(task)) for task in tasks]
        runs = [RunAtHand(plan, task.folder, task.device) for plan, task in zip(plans, tasks, strict=True)]
        values = measure.measure_together(runs, tasks[0].study.settings)
        return [
            Failure(one_line(value)) if isinstance(value, Exception) else (None, _kept(task, plan, value))
            for task, plan, value in zip(tasks, plans, values, strict=True)
        ]


@contextlib.contextmanager
def _logged(tasks: Sequence[RunTask]) -> Iterator[Callable[[str], None]]:
    """Sends messages and errors to train.log in the folder of the first task; yields a function that logs a line."""
    for task in tasks:
        task.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(open(tasks[0].folder / LOG, "a", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stderr(log))
        if not faulthandler.is_enabled():  # so that the log locates crashes in native code
            faulthandler.enable(log)
            stack.callback(faulthandler.disable)
        try:
            with disk_faults(tasks[0].folder):
                yield lambda line: print(line, file=log, flush=True)
        except UserError as error:
            print(f"Error: {error.message}", file=log)
            raise
        except Exception:
            traceback.print_exc(file=log)
            raise


def _config(task: RunTask) -> Config:
    return task.variant.config(task.recipe, [*task.changes, f"train.seed={task.seed}"])


def _kept(task: RunTask, plan: Plan, value: object) -> Any:
    """The measured value as JSON, after it has been written to measured.json."""
    measured = plain_json(value, f"measure {task.study.measure!r}: measure()")
    fingerprint = fingerprint_of(plan, pick_device(task.device))
    kept = {"fingerprint": fingerprint, "asked": _question(task.study), "measured": measured}
    write_atomically(task.folder / MEASURED, json.dumps(kept, ensure_ascii=False).encode())
    return measured


def _restore(
    run: StudyRun,
    study: Study,
    measure: Measure,
    store: FeatureStore,
    recipe: str,
    target: torch.device,
    known: KnownRuns,
) -> None:
    """Sets the status of a run that is already done, or that is impossible with this store."""
    # An invalid key is reported before any run starts.
    config = run.variant.config(recipe, [*run.prepared.changes, f"train.seed={run.seed}"])
    try:
        plan = make_plan(store, config)
        if read_result(run.folder) is None:
            plan.model()
    except UserError as error:
        run.status, run.reason = SKIPPED, str(error)
        return
    fingerprint = fingerprint_of(plan, target)
    if measure.trains:
        run.result = finished_result(run.folder, fingerprint)
        if run.result is None and known.take(fingerprint, run.folder) is not None:
            run.result = finished_result(run.folder, fingerprint)
    try:
        stored = parse_json((run.folder / MEASURED).read_text(encoding="utf-8"))
        question = stored["asked"]
        same = stored["fingerprint"] == fingerprint and all(question[k] == v for k, v in _question(study).items())
        measured = stored["measured"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if same and (run.result is not None or not measure.trains):
        run.status, run.measured = DONE, measured


def _question(study: Study) -> dict[str, object]:
    """The measure and settings recorded in measured.json; earlier releases also wrote the keys of other measures."""
    return {"measure": study.measure, **study.settings}


def _variant_records(out: Path, runs: Sequence[StudyRun]) -> list[VariantRecord]:
    variants: dict[str, VariantRecord] = {}
    for run in runs:
        name = run.variant.name
        variant = variants.setdefault(name, {"name": name, "changes": run.variant.changes, "runs": []})
        variant["runs"].append(
            {
                "seed": run.seed,
                "folder": str(run.folder.relative_to(out)),
                "status": run.status,
                "reason": run.reason,
                "result": run.result,
                "measured": run.measured,
            }
        )
    for variant in variants.values():
        results = [run["result"] for run in variant["runs"] if run["status"] == DONE and run["result"] is not None]
        selected = [result["selected"] for result in results if result["selected"] is not None]
        test = [result["test"] for result in results if result["test"] is not None]
        variant["selected"] = spread(selected) if selected else None
        variant["test"] = spread(test) if test else None
    return list(variants.values())


def _report(run: StudyRun, measure: Measure) -> str:
    if run.status == FAILED:
        return f"failed: {run.reason} (see {run.folder / LOG})"
    if run.result is None:
        return measure.brief(run.measured)
    test = run.result["test"]
    scores = f"test weighted F1 {100 * test['weighted_f1']:.2f}" if test else "no test split"
    return f"{scores}; {run.result['seconds']:.1f} s"


def _left(seconds: float) -> str:
    return "" if seconds < 1 else f"; {time_in_words(seconds)} left"


def _size(variants: int, seeds: int) -> str:
    return f"{counted(variants, 'variant')}, {counted(seeds, 'seed')}"


def _counts(runs: list[StudyRun]) -> str:
    names = (("done", DONE), ("skipped", SKIPPED), ("to do", ""))
    return ", ".join(f"{sum(run.status == status for run in runs)} {name}" for name, status in names)
