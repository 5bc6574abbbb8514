"""One epoch of AMB-DSGDN compared with a naive version of it, on synthetic features in the real shapes.

    python benchmarks/train.py [--corpora iemocap meld] [--batch 16 64] [--device cpu] [--rounds 3] [--long]
    python benchmarks/train.py --authors FOLDER [--batch 16]

An epoch is a training pass over the training split, and an evaluation of the test split. The naive version computes the
same function (checked for every corpus before anything is timed) as research code usually does: dialogues padded to the
longest of their batch, graphs pair by pair in Python, dense attention, one head and one branch at a time,
F1 by scikit-learn on the CPU in every batch. With --authors the authors' own code is the baseline, from a folder with a
checkout of their repository (github.com/wys-ljq/AMB-DSGDN), on the CPU and with our features; logits are compared first
here too. Baseline and ours run in turns. With --long it times dialogues of up to 100,000 utterances instead.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from authors_amb_dsgdn import Authors
from naive_amb_dsgdn import Naive, naive_pass, padded

from erc_toolkit.toolkit.base.device import device_name, pick_device, products_in, synchronize
from erc_toolkit.toolkit.manifest import Utterance
from erc_toolkit.toolkit.store import FeatureStore, StoreWriter
from erc_toolkit.train.config import load_config
from erc_toolkit.train.data.batch import Batch, Conversations
from erc_toolkit.train.data.features import read_feature
from erc_toolkit.train.loop.epoch import new_state, train_epoch
from erc_toolkit.train.loop.evaluation import predict, score
from erc_toolkit.train.loop.execution import make_gradients
from erc_toolkit.train.loop.plan import Plan, make_plan, training_data
from erc_toolkit.train.loop.seeding import seed_everything
from erc_toolkit.train.models.subgraphs.amb_dsgdn import AMBDSGDN

# dialogues and utterances of the training and test splits, longest dialogue, widths, classes, speakers of a dialogue
Shape = tuple[tuple[int, int], tuple[int, int], int, dict[str, int], int, int]
SHAPES: dict[str, Shape] = {
    "iemocap": ((120, 5810), (31, 1623), 110, {"text": 1024, "audio": 1582, "visual": 342}, 6, 2),
    "meld": ((1152, 11098), (280, 2610), 33, {"text": 1024, "audio": 300, "visual": 342}, 7, 9),
}
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_scaled_dot_product")


def lengths_of(dialogues: int, utterances: int, longest: int, rng: np.random.Generator) -> np.ndarray:
    """Random lengths from 1 to `longest`, which occurs, with the given sum."""
    if not longest + dialogues - 1 <= utterances <= longest * dialogues:
        raise ValueError(f"{dialogues} dialogues of up to {longest} do not have {utterances} utterances")
    lengths = np.clip(rng.gamma(3, utterances / dialogues / 3, dialogues).round().astype(int), 1, longest)
    lengths[0] = longest
    while (difference := utterances - lengths.sum()) != 0:
        step = int(np.sign(difference))
        free = np.flatnonzero((lengths[1:] + step >= 1) & (lengths[1:] + step <= longest)) + 1
        lengths[rng.choice(free, min(abs(difference), len(free)), replace=False)] += step
    return lengths


def write_store(path: Path, corpus: str, shape: Shape | None = None) -> None:
    """A store of random features in the shape of a corpus, or in another one."""
    train, test, longest, dims, classes, speakers = shape or SHAPES[corpus]
    rng = np.random.default_rng(0)
    utterances = []
    for split, (dialogues, total) in (("train", train), ("test", test)):
        for d, length in enumerate(lengths_of(dialogues, total, longest, rng)):
            for position in range(length):
                utterances.append(
                    Utterance(
                        id=f"{split}{d}_{position}",
                        dialogue=f"{split}{d}",
                        position=position,
                        speaker=f"s{int(rng.integers(speakers))}",
                        text="",
                        label=f"c{int(rng.integers(classes))}",
                        split=split,
                    )
                )
    n = len(utterances)
    with StoreWriter(path, corpus=corpus, labels=[f"c{c}" for c in range(classes)], utterances=utterances) as writer:
        for modality, dim in dims.items():
            writer.add_feature(modality, "x", rng.standard_normal((n, dim), np.float32), np.ones(n, bool), [""] * n)


class Times(NamedTuple):
    """Median seconds of a training pass and of a test pass, and the processor seconds of both together."""

    training: float
    testing: float
    processor: float

    @property
    def epoch(self) -> float:
        """Seconds of both."""
        return self.training + self.testing


Passes = tuple[Callable[[], None], Callable[[], None]]  # a training pass and a test pass


def in_turns(contestants: Sequence[Passes], device: torch.device, rounds: int) -> list[Times]:
    """Each contestant's times in some rounds after one to warm up; in every round each has its turn."""
    found: list[list[tuple[float, ...]]] = [[] for _ in contestants]
    for number in range(rounds + 1):
        for passes, times in zip(contestants, found, strict=True):
            used, seconds = time.process_time(), []
            for work in passes:
                synchronize(device)
                began = time.perf_counter()
                work()
                synchronize(device)
                seconds.append(time.perf_counter() - began)
            times.append((*seconds, time.process_time() - used))
        shown = " | ".join("{:.2f} + {:.2f} s, CPU {:.2f} s".format(*times[-1]) for times in found)
        print(f"{f'round {number}' if number else 'warming up'}: {shown}", file=sys.stderr, flush=True)
    return [Times(*map(statistics.median, zip(*times[1:], strict=True))) for times in found]


class Silent:
    """No progress."""

    def step(self, done: int, steps: int) -> None:
        """Says nothing."""


def share_of_products(work: Callable[[], None]) -> float:
    """Share of an epoch's CPU time that is spent inside matrix products."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    averages = profile.key_averages()
    total = sum(e.self_cpu_time_total for e in averages)
    return sum(e.self_cpu_time_total for e in averages if e.key.startswith(PRODUCTS)) / total


def plan_and_data(store: FeatureStore, corpus: str, size: int, device: torch.device) -> tuple[Plan, Conversations]:
    """How a corpus' recipe trains on a store in batches of `size` dialogues, and the store's features on a device."""
    config = load_config(corpus, [f"train.batch_size={size}", "train.protocol=best-on-test", "train.epochs=1000"])
    plan = make_plan(store, config)
    return plan, training_data(plan, {m: read_feature(store, f) for m, f in plan.features.items()})[0].to(device)


def compare(corpus: str, options: argparse.Namespace, device: torch.device) -> None:
    """Times epochs of a corpus' shape and prints a line for each batch size and precision."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "store.h5"
        write_store(path, corpus)
        with FeatureStore.open(path) as store:
            for size in options.batch:
                plan, data = plan_and_data(store, corpus, size, device)
                baseline: list[Passes] = []
                if options.authors is not None:
                    authors = Authors(options.authors, corpus, plan, data, Path(scratch))
                    authors.check(data)
                    baseline = [(partial(authors.epoch, True), partial(authors.epoch, False))]
                elif not options.no_naive:
                    baseline = [naive_passes(plan, data, device)]
                ours = []
                for precision in options.precision:
                    changed = copy.deepcopy(plan.config)
                    changed.train.precision = precision
                    ours.append(our_passes(replace(plan, config=changed), data, device))
                times = in_turns([*baseline, *ours], device, options.rounds)
                for precision, passes, own in zip(options.precision, ours, times[len(baseline) :], strict=True):
                    share = share_of_products(one_after_the_other(passes)) if device.type == "cpu" else None
                    report(corpus, size, precision, times[0] if baseline else None, own, share)


def naive_model(plan: Plan, data: Conversations, device: torch.device) -> tuple[Naive, torch.optim.Optimizer]:
    """The naive model and its optimizer, after checking that it has the same logits as ours."""
    seed_everything(0)
    ours = plan.model().to(device).eval()
    dims = {m: f.dim for m, f in plan.features.items()}
    naive = Naive(plan.config.model, dims, plan.speakers.slots, ours.classes).to(device).load(ours).eval()
    batch = data.batch(torch.from_numpy(plan.division.test[:16]))
    features, speakers, mask, _ = padded(batch, plan.speakers.slots)
    with torch.no_grad(), products_in("float32", device):
        torch.testing.assert_close(
            sum(naive(features, speakers, mask).values())[mask], ours(batch).logits, rtol=1e-3, atol=1e-3
        )
    optimizer = torch.optim.Adam(
        naive.parameters(), lr=plan.config.train.lr, weight_decay=plan.config.train.weight_decay
    )
    return naive, optimizer


def naive_passes(plan: Plan, data: Conversations, device: torch.device) -> Passes:
    """Passes of the naive model."""
    naive, optimizer = naive_model(plan, data, device)
    size = plan.config.train.batch_size
    training, testing = (
        partial(naive_pass, naive, optimizer, data, plan, size, training) for training in (True, False)
    )
    return training, testing


def our_passes(plan: Plan, data: Conversations, device: torch.device) -> Passes:
    """Passes that train a new model for one more epoch and evaluate the test split, as `plan.config` says."""
    settings = plan.config.train
    seed_everything(0)
    model = plan.model().to(device)
    state, computed = new_state(model, settings), make_gradients(model, settings, device)

    def test() -> None:
        prediction = predict(state.model, data, plan.division.test, settings.batch_size, settings.precision)
        score(prediction, plan.store.column("label"), plan.store.labels, plan.counts)

    return lambda: train_epoch(plan, state, data, Silent(), computed), test


def our_epoch(plan: Plan, data: Conversations, device: torch.device) -> Callable[[], None]:
    """Both passes of `our_passes` as one function."""
    return one_after_the_other(our_passes(plan, data, device))


def one_after_the_other(passes: Passes) -> Callable[[], None]:
    """A function that calls all functions."""

    def both() -> None:
        for work in passes:
            work()

    return both


def report(corpus: str, size: int, precision: str, baseline: Times | None, ours: Times, products: float | None) -> None:
    """Prints a line."""
    line = f"{corpus:8} {size:5} {precision:9} "
    for times in (baseline, ours):
        numbers = times or (None, None, None)
        line += " ".join(f"{'' if n is None else format(n, '.2f'):>8}" for n in numbers) + "  "
    ratios = (f"{baseline.training / ours.training:9.2f} {baseline.epoch / ours.epoch:6.2f}") if baseline else " " * 16
    print(f"{line}{ratios} {'' if products is None else format(products, '.0%'):>8}", flush=True)


def one_dialogue(length: int, window: int | None, device: torch.device) -> tuple[AMBDSGDN, Batch]:
    """The IEMOCAP model in evaluation mode, and a batch of one dialogue with random features."""
    config = load_config("iemocap").model
    config.encoder_window = window
    dims = SHAPES["iemocap"][3]
    seed_everything(0)
    model = AMBDSGDN(config, dims, 2, torch.ones(6)).eval().to(device)
    everyone = torch.ones(length, dtype=torch.bool, device=device)
    batch = Batch(
        {m: torch.randn(length, dim, device=device) for m, dim in dims.items()},
        dict.fromkeys(dims, everyone),
        torch.randint(2, (length,), device=device),
        torch.zeros(length, dtype=torch.int64, device=device),
        torch.zeros(length, dtype=torch.int64, device=device),
        torch.tensor([0, length]),
    )
    return model, batch


def long_dialogue(length: int, window: int | None, pipe) -> None:
    """Sends seconds, and peak memory of this process in MiB, of one forward pass over one dialogue."""
    model, batch = one_dialogue(length, window, torch.device("cpu"))
    began = time.perf_counter()
    with torch.inference_mode():
        assert model(batch).logits.isfinite().all()
    pipe.send((time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024))


def long_dialogues(window: int) -> None:
    """Prints time and memory for increasingly long dialogues, with local and with whole-dialogue encoders."""
    print(f"{'utterances':>10} {'encoders':>8} {'seconds':>8} {'peak MiB':>9}")
    context = multiprocessing.get_context("spawn")  # a separate process for each, as peak memory is measured
    for reach, lengths in ((window, (6_250, 12_500, 25_000, 50_000, 100_000)), (None, (6_250, 12_500, 25_000))):
        for length in lengths:
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=long_dialogue, args=(length, reach, there))
            process.start()
            there.close()
            seconds, memory = here.recv()
            process.join()
            print(f"{length:10} {'whole' if reach is None else reach:>8} {seconds:8.2f} {memory:9.0f}", flush=True)


def main() -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpora", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--batch", nargs="+", type=int, default=[16, 64])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", nargs="+", default=["float32"], choices=["float32", "bfloat16"])
    parser.add_argument("--authors", type=Path, help="compare with the authors' code in this folder")
    parser.add_argument("--no-naive", action="store_true", help="skip the naive version")
    parser.add_argument("--long", action="store_true", help="time long dialogues instead")
    parser.add_argument("--encoder-window", type=int, default=50, help="encoder window for long dialogues")
    options = parser.parse_args()
    device = pick_device(options.device)
    print(f"{device_name(device)}, torch {torch.__version__}")
    if options.long:
        long_dialogues(options.encoder_window)
        return
    print(f"{'':24} baseline's train, test, CPU    ours: train, test, CPU       train  epoch products")
    for corpus in options.corpora:
        compare(corpus, options, device)


if __name__ == "__main__":
    main()
