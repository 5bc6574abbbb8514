"""Training epochs of the corpora's shapes against the naive version's, and IEMOCAP's whole training."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from gpu_steps.common import Job, Row, Skip, forget_peak, peak_mib, timed
from naive_amb_dsgdn import naive_epoch
from torch.autograd import DeviceType

from erc_toolkit.toolkit.store import FeatureStore
from erc_toolkit.train.config import Config, load_config
from erc_toolkit.train.data.batch import Conversations
from erc_toolkit.train.data.features import read_feature
from erc_toolkit.train.loop.plan import Plan, make_plan, training_data
from erc_toolkit.train.loop.trainer import train
from train import SHAPES, Shape, naive_model, our_epoch, share_of_products, write_store

TABLE = "One epoch"
WHOLE = "IEMOCAP's whole training"
NAIVE = "naive, padded"
CPU = torch.device("cpu")
# How gradients are computed, and in which precision.
VARIANTS = [
    ("eager", "float32"),
    ("cuda-graphs", "float32"),
    ("cuda-graphs", "bfloat16"),
    ("eager", "bfloat16"),
    ("eager", "tf32"),
    ("cuda-graphs", "tf32"),
]
TINY: Shape = ((6, 60), (3, 30), 16, {"text": 24, "audio": 20, "visual": 16}, 6, 2)
ROUNDS = 3


def run(job: Job) -> None:
    """Naive and ours on both corpora, then the whole training with the fastest way and with one operation at a time."""
    for corpus in SHAPES:
        with corpus_of(job, corpus) as (plan, data):
            baseline(job, corpus, plan, data)
            for execution, precision in VARIANTS:
                epoch(job, corpus, plan, data, execution, precision)
    whole_trainings(job)


def settings(corpus: str, small: bool, *changes: str) -> Config:
    """A corpus' recipe, as it is trained here."""
    tiny = ["model.hidden=32", "data.speaker_slots=null"] if small else []
    return load_config(corpus, ["train.protocol=best-on-test", *tiny, *changes])


def store_of(job: Job, corpus: str) -> Path:
    """A store of random features in the corpus' shape."""
    path = job.scratch / f"{corpus}.h5"
    if not path.exists():
        write_store(path, corpus, TINY if job.small else None)
    return path


@contextmanager
def corpus_of(job: Job, corpus: str) -> Iterator[tuple[Plan, Conversations]]:
    """The plan of training on a corpus' shape, and its data on the CPU."""
    with FeatureStore.open(store_of(job, corpus)) as store:
        plan = make_plan(store, settings(corpus, job.small, "train.epochs=1000"))
        yield plan, training_data(plan, {m: read_feature(store, f) for m, f in plan.features.items()})[0]


def baseline(job: Job, corpus: str, plan: Plan, data: Conversations) -> None:
    """The naive version on the CPU and on the device."""
    job.measure(TABLE, lambda: naive(job, plan, data, CPU, job.left / 3), corpus=corpus, how=NAIVE, on="cpu")
    if not job.cuda:
        return

    def on_device() -> Row:
        forget_peak(job.device)
        there = copy.copy(data).to(job.device)
        return with_ratios(
            job, corpus, {**naive(job, plan, there, job.device, job.left / 4), "peak MiB": peak_mib(job.device)}
        )

    job.measure(TABLE, on_device, corpus=corpus, how=NAIVE, on=job.device.type)


def naive(job: Job, plan: Plan, data: Conversations, device: torch.device, most: float) -> Row:
    """Seconds of an epoch of the naive version: of an eighth of the dialogues, and if `most` allows it of all."""
    model, optimizer = naive_model(plan, data, device)
    size = plan.config.train.batch_size

    def seconds(plan: Plan) -> float:
        return timed(lambda: naive_epoch(model, optimizer, data, plan, size), device)[0]

    def part(dialogues):
        return dialogues[min(4, len(dialogues) - 1) :: 8]  # the first one is the longest

    division = plan.division
    some = replace(plan, division=replace(division, train=part(division.train), test=part(division.test)))
    all_of_them, of_the_part = (int(data.lengths(torch.from_numpy(one.division.train)).sum()) for one in (plan, some))
    sample = seconds(some) * all_of_them / of_the_part
    if sample > most:
        return {"s": sample, "note": "an eighth of the dialogues, scaled by utterances"}
    return {"s": seconds(plan), "note": "one epoch after an eighth of one"}


def epoch(job: Job, corpus: str, plan: Plan, data: Conversations, execution: str, precision: str) -> None:
    """Our epoch in one way."""

    def work() -> Row:
        if not job.cuda and (execution == "cuda-graphs" or precision == "tf32"):
            raise Skip("CUDA only")
        if not job.cuda and execution == "compile":
            raise Skip("torch.compile is for CUDA here")
        config = settings(
            corpus, job.small, "train.epochs=1000", f"train.execution={execution}", f"train.precision={precision}"
        )
        if execution == "compile":
            torch._dynamo.reset()
        ours = replace(plan, config=config)
        forget_peak(job.device)
        here = copy.copy(data).to(job.device)
        once = our_epoch(ours, here, job.device)
        first, later = timed(once, job.device)[0], []
        timed(once, job.device)  # buckets that the first order of dialogues did not have
        for _ in range(1 if job.small else ROUNDS):
            later.append(timed(once, job.device)[0])
        row = {"first s": first, "s": statistics.median(later), "peak MiB": peak_mib(job.device)}
        if job.cuda:
            row["share in kernels"] = share_of_kernels(once, row["s"])
        else:
            row["share in products"] = share_of_products(once)
        if execution == "compile":
            row["compiled graphs"] = compiled_graphs()
        return with_ratios(job, corpus, row)

    job.measure(
        TABLE, work, needs=5 if job.cuda else 1, corpus=corpus, how=f"{execution}, {precision}", on=job.device.type
    )


def compiled_graphs() -> int:
    """Graphs that `torch.compile` has compiled: one per size and decision, or 8, after which it compiles no more."""
    from torch._dynamo.utils import counters  # takes seconds to import

    return counters["stats"]["unique_graphs"]


def with_ratios(job: Job, corpus: str, row: Row) -> Row:
    """A row with how much longer the naive version takes, on the CPU and on the device."""
    for column, where in (("naive CPU / this", "cpu"), ("naive GPU / this", "cuda")):
        if naive := job.found(TABLE, corpus=corpus, how=NAIVE, on=where):
            row[column] = naive["s"] / row["s"]
    return row


def share_of_kernels(work: Callable[[], None], seconds: float) -> float:
    """Share of an epoch's time in which the device runs kernels, copies left out.

    The profiler slows the host and not the kernels, so their time is divided by that of an epoch without it.
    """
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        work()
        torch.cuda.synchronize()
    kernels = [
        event
        for event in profile.key_averages()
        if event.device_type == DeviceType.CUDA
        and not event.is_user_annotation
        and not event.key.startswith(("Memcpy", "Memset"))
    ]
    return sum(event.self_device_time_total for event in kernels) / 1e6 / seconds


def whole_trainings(job: Job) -> None:
    """IEMOCAP's 61 epochs by the trainer, with checkpoints and everything else, or computed if there is no time."""
    epochs = 2 if job.small else settings("iemocap", False).train.epochs
    ways = [(execution, precision) for execution, precision in VARIANTS if _epoch(job, execution, precision)]
    if not ways:
        job.skip(WHOLE, "no epoch was measured", how="eager, float32")
        return
    fastest = min(ways, key=lambda way: _epoch(job, *way))
    for execution, precision in dict.fromkeys([fastest, ("eager", "float32")]):
        how = f"{execution}, {precision}"
        expected = epochs * _epoch(job, execution, precision)

        def work(execution: str = execution, precision: str = precision, expected: float = expected) -> Row:
            if expected * 1.5 + 5 > job.left:
                return {"epochs": epochs, "s": expected, "note": "computed from one epoch"}
            changes = [f"train.epochs={epochs}", f"train.execution={execution}", f"train.precision={precision}"]
            out = job.scratch / f"run-{execution}-{precision}"
            with FeatureStore.open(store_of(job, "iemocap")) as store:
                config = settings("iemocap", job.small, *changes)
                seconds, _ = timed(
                    lambda: train(store, config, out, str(job.device), lambda line: None, overwrite=True), job.device
                )
            return {"epochs": epochs, "s": seconds, "note": "measured: train(), with evaluation and checkpoints"}

        job.measure(WHOLE, work, needs=-1e9, how=how)


def _epoch(job: Job, execution: str, precision: str) -> float:
    """Seconds of an epoch of IEMOCAP in one way; 0 if they were not measured."""
    return job.found(TABLE, corpus="iemocap", how=f"{execution}, {precision}", on=job.device.type).get("s", 0.0)
