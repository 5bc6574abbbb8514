"""The demo corpus on disk: synthetic clips in MELD's raw layout.

Each utterance has one true emotion. Words, voice and face each display it with their own reliability
(`script.RELIABILITY`), and otherwise neutral or one of the emotions with which that modality confuses it, all drawn
independently. So each modality carries part of the information about the emotion and none all of it. `truth.csv` lists
the true and the displayed emotions; nothing else in the toolkit reads it.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ... import manifests
from ..base.cores import core_count
from ..base.disk import disk_fault
from ..base.errors import FaultError, UserError
from ..base.files import write_atomically
from ..base.processes import Failure, run_tasks
from .clips import write_clip
from .faces import render
from .looks import speaker_look
from .script import FPS, MODALITIES, Line, stream, syllables, write_dialogue
from .voice import OUT_RATE, speak

VERSION = 1
_MARKER, _MADE_BY = "demo.json", "erc-toolkit demo"
TRAIN, DEV, TEST = 30, 7, 12
_COLUMNS = (
    "Sr No.",
    "Utterance",
    "Speaker",
    "Emotion",
    "Sentiment",
    "Dialogue_ID",
    "Utterance_ID",
    "Season",
    "Episode",
    "StartTime",
    "EndTime",
)
_MELD_SPLIT = {"train": "train", "dev": "val", "test": "test"}


@dataclass(frozen=True)
class DemoCorpus:
    """A demo corpus: its folder, clips per split ("train", "dev", "test"), seconds of media, and whether it is new."""

    root: Path
    clips: dict[str, int]
    seconds: float
    new: bool


def make_corpus(
    root: Path,
    *,
    seed: int = 0,
    train: int = TRAIN,
    dev: int = DEV,
    test: int = TEST,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> DemoCorpus:
    """Generates the corpus, or returns at once if the same one already exists.

    Args:
        root: folder to create; an unfinished or different demo corpus in it is replaced.
        seed: determines everything, independent of the number of workers.
        train, dev, test: number of dialogues per split.
        workers: number of processes; 0 for one per core.
        progress: called with the number of finished clips and their total.

    Raises:
        UserError: the folder contains something else, or the disk is full.
        FaultError: a clip could not be generated.
    """
    root = Path(root)
    sizes = {"train": train, "dev": dev, "test": test}
    wanted = {"made_by": _MADE_BY, "version": VERSION, "seed": seed, "dialogues": sizes}
    lines = [line for split in sizes for d in range(sizes[split]) for line in write_dialogue(seed, split, d)]
    clips = {split: sum(line.split == split for line in lines) for split in sizes}
    marker = root / _MARKER
    made = DemoCorpus(root, clips, sum(line.seconds for line in lines), _marker(marker) != {**wanted, "finished": True})
    if not made.new:
        return made
    if root.exists() and any(root.iterdir()) and not is_demo_corpus(root):
        raise UserError(f"{root}: is not empty and not a demo corpus; choose another folder")
    shutil.rmtree(root, ignore_errors=True)
    facts = manifests.load("meld.yaml")["splits"]
    root.mkdir(parents=True, exist_ok=True)
    write_atomically(marker, json.dumps({**wanted, "finished": False}).encode())
    for split in sizes:
        (root / facts[_MELD_SPLIT[split]]["folder"]).mkdir(exist_ok=True)
    for split in sizes:
        _write_table(root / facts[_MELD_SPLIT[split]]["table"], [line for line in lines if line.split == split])
    _write_truth(root / "truth.csv", lines)
    jobs = [(line, root / facts[_MELD_SPLIT[line.split]]["folder"] / f"{line.name}.mp4", seed) for line in lines]
    workers = min(workers or core_count(), len(jobs))
    for done, (job, failure) in enumerate(run_tasks(jobs, _make_clip, workers), 1):
        if isinstance(failure, Failure):
            error = FaultError(f"{job[1]}: the clip could not be generated: {failure.reason}")
            raise disk_fault(error, job[1]) or error
        if progress is not None:
            progress(done, len(jobs))
    write_atomically(marker, json.dumps({**wanted, "finished": True}).encode())
    return made


def is_demo_corpus(root: Path) -> bool:
    """Whether a folder has a demo corpus, finished or not."""
    return _marker(root / _MARKER).get("made_by") == _MADE_BY


def _make_clip(job: tuple[Line, Path, int]) -> None:
    import cv2

    cv2.setNumThreads(1)
    line, path, seed = job
    key = (line.split, line.dialogue, line.utterance)
    audio, loudness = speak(
        line.speaker, line.shown["voice"], syllables(line.text), line.frames, stream(seed, "voice", *key)
    )
    frames, _ = render(speaker_look(seed, line.speaker), line.shown["face"], loudness, stream(seed, "face", *key))
    write_clip(path, frames, np.stack([audio, audio], 1), fps=FPS, sample_rate=OUT_RATE)


def _write_table(path: Path, lines: list[Line]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(_COLUMNS)
        clock = 0.0
        for number, line in enumerate(lines, 1):
            start, clock = clock, clock + line.seconds
            table.writerow(
                [
                    number,
                    line.text,
                    line.speaker,
                    line.emotion,
                    line.sentiment,
                    line.dialogue,
                    line.utterance,
                    1,
                    1,
                    _time(start),
                    _time(clock),
                ]
            )


def _write_truth(path: Path, lines: list[Line]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["split", "clip", "emotion", *MODALITIES])
        for line in lines:
            table.writerow([line.split, line.name, line.emotion, *(line.shown[m] for m in MODALITIES)])


def _time(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{milliseconds // 1000:02d},{milliseconds % 1000:03d}"


def _marker(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
