"""`erc-toolkit extract` on clips that the demo makes: on the device, and against the CPU."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import torch
from gpu_steps.common import Job, Row, Skip, difference
from random_encoders import speech_model

from erc_toolkit.toolkit.demo.encoders import make_text_encoder
from erc_toolkit.toolkit.store import FeatureStore

TABLE = "Extraction of demo clips"
AGREEMENT = "Features against those of the CPU"


def run(job: Job) -> None:
    """Text, audio and visual with networks, and openSMILE, which has no use for the device."""
    places = dict.fromkeys([str(job.device), "cpu"])
    for place in places:
        job.measure(TABLE, lambda p=place: extract(job, p, "text,audio,visual"), needs=5, modalities="all", on=place)
    if job.cuda:
        job.measure(AGREEMENT, lambda: compared(job, "text,audio,visual"), needs=1, features="all")
    else:
        job.skip(AGREEMENT, "the device is the CPU", features="all")
    job.measure(
        TABLE, lambda: extract(job, str(job.device), "audio"), needs=5, modalities="openSMILE", on=str(job.device)
    )


def clips(job: Job) -> Path:
    """A folder of clips in MELD's layout."""
    from erc_toolkit.toolkit.demo.corpus import make_corpus

    root = job.scratch / "clips"
    make_corpus(root, seed=1, train=1 if job.small else 6, dev=1, test=1)
    return root


def extract(job: Job, place: str, modalities: str) -> Row:
    """Seconds of the command and of its stages, as it prints them."""
    needed = ["av", "imageio_ffmpeg", "cv2" if "visual" in modalities else "opensmile"]
    for package in needed:
        if importlib.util.find_spec(package) is None:
            raise Skip(f"{package} is not installed")
    root, models = clips(job), job.scratch
    if not (models / "text").exists():
        make_text_encoder(models / "text", ["what do you want from me?", "I am so happy!", "leave me alone"] * 3)
    if not (models / "speech").exists():
        speech_model(models / "speech", "tiny" if job.small else "base")
    audio = ["--audio-model", str(models / "speech")] if "visual" in modalities else ["--audio-set", "eGeMAPSv02"]
    network = "denseface" if job.small else "densenet121"
    visual = ["--visual-model", network, "--visual-weights", "random", "--face-detector", "haar"]
    visual += ["--fps", "1"] if job.small else []
    out = store_of(job, place, modalities)
    command = [
        sys.executable,
        "-P",
        "-m",
        "erc_toolkit",
        "extract",
        "meld",
        str(root),
        "--out",
        str(out),
        "--modalities",
        modalities,
        "--device",
        place,
        "--text-model",
        str(models / "text"),
        *audio,
        *visual,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"extract ended with {done.returncode}: {done.stderr.strip()[-200:]}")
    printed = " ".join(done.stdout.split())
    total = re.search(r"(\d+) utterances?, .* in ([\d.]+) s \((.*?)\);", printed)
    if not total:
        raise ValueError("the command printed no times")
    stages = {f"{name} s": float(s) for name, s in re.findall(r"(\w+) ([\d.]+) s", total[3])}
    return {"clips": int(total[1]), "s": float(total[2]), **stages}


def compared(job: Job, modalities: str) -> Row:
    """The largest relative difference of every feature on the device from that on the CPU."""
    found, expected = (store_of(job, place, modalities) for place in (str(job.device), "cpu"))
    if not (found.exists() and expected.exists()):
        raise Skip("one of the two stores is missing")
    row: Row = {}
    with FeatureStore.open(found) as ours, FeatureStore.open(expected) as theirs:
        for name in theirs.feature_names():
            a, b = (torch.from_numpy(store.feature(name).values()) for store in (ours, theirs))
            row[name] = difference(a, b)
            row[f"{name}, same rows"] = bool((ours.feature(name).present() == theirs.feature(name).present()).all())
    return row


def store_of(job: Job, place: str, modalities: str) -> Path:
    """The store of an extraction."""
    return job.scratch / f"{place.replace(':', '')}-{modalities.replace(',', '-')}.h5"
