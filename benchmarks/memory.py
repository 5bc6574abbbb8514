"""Memory of every model's training step and of the encoders: python benchmarks/memory.py [iemocap meld encoders].

Weights, gradients and Adam's two moments follow from the number of parameters. What a step allocates on top is the peak
of PyTorch's allocations on the CPU, with the corpus' recipe and shape, on the batch with the most utterances of an
epoch. For encoders, which have random weights, it is that of a small batch, divided by its size. A GPU needs less where
its kernels do not store attention matrices that a CPU's do.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from random_encoders import image_model, speech_model, text_model

from erc_toolkit.extract.encoders.audio.speech import AudioModel
from erc_toolkit.extract.encoders.base import AudioSpan
from erc_toolkit.extract.encoders.text.encoder import TextEncoder
from erc_toolkit.extract.encoders.visual.face_network import FaceEncoder
from erc_toolkit.extract.encoders.visual.image import ImageModel
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


def of_encoders(scratch: Path) -> None:
    """Prints the memory of encoders of real size in float32."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["so", "what", "happened", "then", "really"], 14)) for _ in range(32)]
    spans = [AudioSpan(0.1 * rng.standard_normal(48_000, np.float32), 16_000) for _ in range(2)]
    colour, grey = (rng.integers(0, 256, (8, 224, 224, 3), np.uint8), rng.integers(0, 256, (32, 64, 64), np.uint8))
    cpu = torch.device("cpu")

    def text() -> tuple[Any, Callable[[], object], int]:
        encoder = TextEncoder(str(text_model(scratch / "roberta-large", "large", texts)))
        tokens = int(encoder(texts)[2]["tokens"].sum())
        return encoder._model, lambda: encoder(texts), tokens

    def speech() -> tuple[Any, Callable[[], object], int]:
        encoder = AudioModel(str(speech_model(scratch / "wavlm-large", "large")), cpu)
        return encoder._model, lambda: list(encoder.utterances(spans)), 6

    def face(name: str, crops: np.ndarray) -> tuple[Any, Callable[[], object], int]:
        encoder = FaceEncoder(name, "random", cpu)
        return encoder.net, lambda: encoder(crops), len(crops)

    def image() -> tuple[Any, Callable[[], object], int]:
        encoder = ImageModel(str(image_model(scratch / "clip", "large")), cpu)
        return encoder.net, lambda: encoder(colour), len(colour)

    print("| encoder | parameters | weights | on top, of each | |\n|---|--:|--:|--:|---|")
    for name, unit, make in (
        ("roberta-large", "1,000 padded tokens", text),
        ("wavlm-large", "second of audio", speech),
        ("densenet121", "image", lambda: face("densenet121", colour)),
        ("denseface", "image", lambda: face("denseface", grey)),
        ("CLIP ViT-L/14", "image", image),
    ):
        network, work, size = make()
        work()
        parameters, step = sum(p.numel() for p in network.parameters()), peak_of(work) / size
        step *= 1000 if "1,000" in unit else 1
        weights = f"{4 * parameters / 2**20:.0f} MiB"
        print(f"| {name} | {parameters / 1e6:.1f} M | {weights} | {step / 2**20:.1f} MiB | {unit} |", flush=True)


def main() -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", nargs="*", choices=[*SHAPES, "encoders"], default=[*SHAPES, "encoders"])
    options = parser.parse_args()
    for corpus in options.what:
        if corpus == "encoders":
            with tempfile.TemporaryDirectory() as scratch:
                of_encoders(Path(scratch))
            continue
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
