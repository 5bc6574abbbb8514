"""Memory of every model's training step: python benchmarks/memory.py [--corpora iemocap meld].

Weights, gradients and Adam's two moments follow from the number of parameters. What a step allocates on top is the peak
of PyTorch's allocations on the CPU, with the corpus' recipe and shape, on the batch with the most utterances of an
epoch. A GPU needs less where its kernels do not store attention matrices that a CPU's do.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from erc_toolkit.toolkit.store import FeatureStore
from erc_toolkit.train.config import load_config
from erc_toolkit.train.data.features import read_feature
from erc_toolkit.train.loop.epoch import new_state
from erc_toolkit.train.loop.plan import make_plan, training_data
from erc_toolkit.train.loop.seeding import seed_everything
from erc_toolkit.train.loop.step import training_step
from erc_toolkit.train.models.registry import AMB_DSGDN, MODELS
from train import SHAPES, write_store


def peak_of(work: Callable[[], object]) -> int:
    """Bytes that some work allocates on the CPU at its peak, beyond what was there before."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    assert profile.profiler is not None
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def of_model(name: str, corpus: str, store: FeatureStore) -> tuple[int, int, int]:
    """Parameters, utterances of the batch, and bytes of a training step of a model."""
    recipe = corpus if name == AMB_DSGDN else f"{name}-{corpus}"
    config = load_config(recipe, ["train.protocol=best-on-test"])
    plan = make_plan(store, config)
    seed_everything(0)
    model = plan.model().train()
    data = training_data(plan, {m: read_feature(store, f) for m, f in plan.features.items()})[0]
    dialogues = torch.from_numpy(plan.division.train)
    order = dialogues[torch.randperm(len(dialogues))]
    part = max(order.split(config.train.batch_size), key=lambda some: int(data.lengths(some).sum()))
    batch, state = data.batch(part), new_state(model, config.train)
    epoch = config.train.epochs  # late enough for everything that a model does only after some epochs

    def step() -> None:
        training_step(model, state.optimizer, batch, epoch, config.train)

    step()  # the optimizer's moments
    return sum(p.numel() for p in model.parameters()), len(batch.labels), peak_of(step)


def main() -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--corpora", nargs="+", choices=SHAPES, default=list(SHAPES))
    options = parser.parse_args()
    for corpus in options.corpora:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "store.h5"
            write_store(path, corpus)
            print(f"| {corpus} | parameters | weights, gradients, Adam | utterances of the batch | step |")
            print("|---|--:|--:|--:|--:|")
            with FeatureStore.open(path) as store:
                for name in MODELS:
                    parameters, utterances, step = of_model(name, corpus, store)
                    fixed, step = (n / 2**20 for n in (16 * parameters, step))
                    numbers = f"{parameters / 1e6:.1f} M | {fixed:.0f} MiB | {utterances} | {step:.0f} MiB"
                    print(f"| {name} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
