"""Encoders of real size with random weights: items a second, memory, and what they do when memory runs out."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gpu_steps.common import Job, Row, Skip, difference, forget_peak, peak_mib, timed
from random_encoders import image_model, speech_model, text_model

from erc_toolkit.extract.encoders.base import AudioSpan

TABLE = "Encoders with random weights"
MEMORY = "Encoders when memory runs out"
UTTERANCES = 13_708  # of MELD
Encode = Callable[[list[Any]], np.ndarray]


class Encoder:
    """An encoder of the toolkit as a function from items to features.

    Args:
        items: what it encodes.
        build: from a precision of extraction to the function, which encodes on the device.
        few: how many items warm up, are compared, and run out of memory.
    """

    def __init__(self, items: list[Any], build: Callable[[str], Encode], few: int) -> None:
        self.items, self.build, self.few = items, build, few


def run(job: Job) -> None:
    """Every encoder in every precision, then with little memory."""
    for name, make in (
        ("roberta-large", text),
        ("densenet121", face("densenet121")),
        ("denseface", face("denseface")),
        ("wavlm-large", speech),
        ("CLIP ViT-L/14", image),
    ):
        name = f"{name} (tiny)" if job.small and make in (text, speech, image) else name
        try:
            encoder = make(job)
        except Exception as error:
            job.measure(TABLE, lambda error=error: _raise(error), encoder=name, arithmetic="float32")
            continue
        measure(job, name, encoder)
        job.tidy()


def _raise(error: Exception) -> Row:
    raise error


def measure(job: Job, name: str, encoder: Encoder) -> None:
    """An encoder in every precision; differences are from float32."""
    exact: list[np.ndarray] = []

    def work(precision: str) -> Row:
        if not job.cuda and precision == "tf32":
            raise Skip("CUDA only")
        encode = encoder.build(precision)
        some = encode(encoder.items[: encoder.few])  # also warms up
        if precision == "float32":
            exact[:] = [some]
        forget_peak(job.device)
        seconds, features = timed(lambda: encode(encoder.items), job.device)
        if not np.isfinite(features).all():
            raise ValueError("a feature is not finite")
        found = {"items": len(encoder.items), "s": seconds, "items a second": len(encoder.items) / seconds}
        compared = {"difference": difference(*map(torch.from_numpy, (some, exact[0])))} if exact else {}
        return {**found, "peak MiB": peak_mib(job.device), **compared}

    job.measure(TABLE, lambda: work("float32"), needs=3, encoder=name, arithmetic="float32")
    job.measure(MEMORY, lambda: little_memory(job, encoder), needs=3, encoder=name)
    for precision in ("bfloat16", "tf32"):
        job.measure(TABLE, lambda p=precision: work(p), needs=5, encoder=name, arithmetic=precision)


def little_memory(job: Job, encoder: Encoder) -> Row:
    """Encodes with less memory than the usual batch needs, so that PyTorch raises its OutOfMemoryError."""
    if not job.cuda:
        raise Skip("a CPU has no limit to run into")
    encode, items = encoder.build("float32"), encoder.items[: encoder.few]
    encode(items[:1])
    job.tidy()
    before = torch.cuda.memory_reserved(job.device)
    torch.cuda.reset_peak_memory_stats(job.device)
    expected = encode(items)
    needed = torch.cuda.max_memory_reserved(job.device)
    total = torch.cuda.get_device_properties(job.device).total_memory
    allowed = before + 0.4 * (needed - before)
    job.tidy()
    said = io.StringIO()
    torch.cuda.set_per_process_memory_fraction(allowed / total, job.device)
    try:
        with contextlib.redirect_stderr(said):
            found = encode(items)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, job.device)
    batches = re.findall(r"batches of at most (\d+) (\w+)", said.getvalue())
    if not batches:
        raise ValueError(f"nothing ran out of memory with {allowed / 2**20:.0f} of {needed / 2**20:.0f} MiB")
    return {
        "MiB needed": needed / 2**20,
        "MiB allowed": allowed / 2**20,
        "times halved": len(batches),
        "batch found": " ".join(batches[-1]),
        "difference": difference(torch.from_numpy(found), torch.from_numpy(expected)),
    }


def sentences(count: int) -> list[str]:
    """Random sentences of about 10 words, as long as MELD's: most are short, few have up to 90."""
    rng = np.random.default_rng(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    words = [a + b for a in syllables[::2] for b in syllables[1::3]][:300]
    lengths = np.clip(rng.lognormal(2.05, 0.7, count).round().astype(int), 1, 88)
    return [" ".join(rng.choice(words, length)) for length in lengths]


def text(job: Job) -> Encoder:
    """roberta-large over as many sentences as MELD has utterances."""
    from erc_toolkit.extract.encoders.text.encoder import TextEncoder

    texts = sentences(60 if job.small else UTTERANCES)
    folder = job.scratch / "roberta"
    if not folder.exists():
        text_model(folder, "tiny" if job.small else "large", texts)

    def build(precision: str) -> Encode:
        encoder = TextEncoder(str(folder), device=job.device, precision=precision)
        return lambda some: encoder(some)[0]

    return Encoder(texts, build, 1_000)


def speech(job: Job) -> Encoder:
    """wavlm-large over clips of 3 s of noise."""
    from erc_toolkit.extract.encoders.audio.speech import AudioModel

    rng = np.random.default_rng(0)
    seconds, count = (0.5, 4) if job.small else (3, 200)
    spans = [AudioSpan(0.1 * rng.standard_normal(int(16_000 * seconds), np.float32), 16_000) for _ in range(count)]
    folder = job.scratch / "wavlm"
    if not folder.exists():
        speech_model(folder, "tiny" if job.small else "large")

    def build(precision: str) -> Encode:
        encoder = AudioModel(str(folder), job.device, precision)
        return lambda some: np.stack([vector for vector, *_ in encoder.utterances(some)])

    return Encoder(spans, build, 40)


def face(name: str) -> Callable[[Job], Encoder]:
    """A DenseNet over face crops, eight an utterance."""

    def make(job: Job) -> Encoder:
        from erc_toolkit.extract.encoders.visual.face_network import ARCHITECTURES, FaceEncoder

        expected = ARCHITECTURES[name].input
        crops = crops_of(expected.side, expected.grey, 8 if job.small else 2_048)

        def build(precision: str) -> Encode:
            encoder = FaceEncoder(name, "random", job.device, precision)
            return lambda some: frames_of(encoder, some)

        return Encoder(crops, build, 1_024)

    return make


def image(job: Job) -> Encoder:
    """CLIP's ViT-L/14 over face crops."""
    from erc_toolkit.extract.encoders.visual.image import ImageModel

    folder = job.scratch / "clip"
    if not folder.exists():
        image_model(folder, "tiny" if job.small else "large")
    crops = crops_of(32 if job.small else 224, False, 8 if job.small else 1_024)

    def build(precision: str) -> Encode:
        encoder = ImageModel(str(folder), job.device, precision)
        return lambda some: frames_of(encoder, some)

    return Encoder(crops, build, 512)


def crops_of(side: int, grey: bool, count: int) -> list[np.ndarray]:
    """Random crops, uint8, each a list of one image."""
    rng = np.random.default_rng(0)
    return list(rng.integers(0, 256, (count, side, side, *(() if grey else (3,))), np.uint8))


def frames_of(encoder: Any, crops: list[np.ndarray]) -> np.ndarray:
    """A vector for each crop; eight crops are an utterance."""
    utterances = [np.stack(crops[i : i + 8]) for i in range(0, len(crops), 8)]
    return np.concatenate([frames for _, frames in encoder.utterances(utterances)])
