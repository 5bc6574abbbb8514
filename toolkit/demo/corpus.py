"""The demo corpus on disk: synthetic clips in MELD's raw layout, or dialogues in IEMOCAP's (`split_screen`).

Each utterance has one true emotion. Words, voice and face each display it with their own reliability
(`script.RELIABILITY`), and otherwise neutral or one of the emotions with which that modality confuses it, all drawn
independently. So each modality carries part of the information about the emotion and none all of it. `truth.csv` lists
the true and the displayed emotions; nothing else in the toolkit reads it.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ... import manifests
from ..base.cores import core_count
from ..base.demo_mark import MADE_BY, MARKER, is_demo_corpus, read_marker
from ..base.disk import disk_fault
from ..base.errors import FaultError, UserError
from ..base.files import write_atomically
from ..base.processes import Failure, run_tasks
from . import split_screen
from .clips import write_clip
from .faces import render
from .looks import speaker_look
from .script import FPS, MODALITIES, Line, stream, syllables, write_dialogue
from .voice import OUT_RATE, speak

VERSION = 3
TRAIN, DEV, TEST = 30, 7, 12
DIALOGUES = 20  # in IEMOCAP's layout
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
    """A demo corpus: its folder, clips per split ("train", "dev", "test"), seconds of media, and whether it is new.

    Of IEMOCAP's layout a clip is a turn, and the splits are "train", "val" and "test".
    """

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
    wanted = {"made_by": MADE_BY, "version": VERSION, "seed": seed, "dialogues": sizes}
    lines = [line for split in sizes for d in range(sizes[split]) for line in write_dialogue(seed, split, d)]
    clips = {split: sum(line.split == split for line in lines) for split in sizes}
    marker = root / MARKER
    made = DemoCorpus(
        root, clips, sum(line.seconds for line in lines), read_marker(marker) != {**wanted, "finished": True}
    )
    if not made.new:
        return made
    _clear(root)
    facts = manifests.load("meld.yaml")["splits"]
    write_atomically(marker, json.dumps({**wanted, "finished": False}).encode())
    for split in sizes:
        (root / facts[_MELD_SPLIT[split]]["folder"]).mkdir(exist_ok=True)
    for split in sizes:
        _write_table(root / facts[_MELD_SPLIT[split]]["table"], [line for line in lines if line.split == split])
    _write_truth(root / "truth.csv", lines)
    jobs = [(line, root / facts[_MELD_SPLIT[line.split]]["folder"] / f"{line.name}.mp4", seed) for line in lines]
    _generate(jobs, _make_clip, root, workers, progress)
    write_atomically(marker, json.dumps({**wanted, "finished": True}).encode())
    return made


def make_dialogue_corpus(
    root: Path,
    *,
    seed: int = 0,
    dialogues: int = DIALOGUES,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> DemoCorpus:
    """Generates the corpus in IEMOCAP's layout, or returns at once if the same one already exists.

    Args:
        root, seed, workers: as for `make_corpus`.
        dialogues: their number, 5 to 25.
        progress: called with the number of finished dialogues and their total.

    Raises:
        UserError, FaultError: as for `make_corpus`.
    """
    root = Path(root)
    wanted = {"made_by": MADE_BY, "version": VERSION, "layout": "iemocap", "seed": seed, "dialogues": dialogues}
    made = split_screen.make_dialogues(seed, dialogues)
    validation = manifests.load("iemocap.yaml")["validation"]
    clips = {"train": 0, "val": 0, "test": 0}
    for name, turns in made.items():
        clips[split_screen.split_of(name, validation)] += len(turns)
    seconds = sum(turn.line.seconds for turns in made.values() for turn in turns)
    corpus = DemoCorpus(root, clips, seconds, read_marker(root / MARKER) != {**wanted, "finished": True})
    if not corpus.new:
        return corpus
    _clear(root)
    write_atomically(root / MARKER, json.dumps({**wanted, "finished": False}).encode())
    for name, turns in made.items():
        split_screen.write_texts(root, name, turns)
    _generate([(root, name, turns, seed) for name, turns in made.items()], _make_dialogue, root, workers, progress)
    write_atomically(root / MARKER, json.dumps({**wanted, "finished": True}).encode())
    return corpus


def _clear(root: Path) -> None:
    """Makes an empty folder, in the place of a demo corpus if there is one."""
    if root.exists() and any(root.iterdir()) and not is_demo_corpus(root):
        raise UserError(f"{root}: is not empty and not a demo corpus; choose another folder")
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True, exist_ok=True)


def _generate(
    jobs: Sequence[Any],
    make: Callable[[Any], None],
    root: Path,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Generates the media of all jobs in parallel; the second item of a job names it."""
    for done, (job, failure) in enumerate(run_tasks(jobs, make, min(workers or core_count(), len(jobs))), 1):
        if isinstance(failure, Failure):
            error = FaultError(f"{job[1]}: could not be generated: {failure.reason}")
            raise disk_fault(error, root) or error
        if progress is not None:
            progress(done, len(jobs))


def _make_dialogue(job: tuple[Path, str, list[split_screen.Placed], int]) -> None:
    import cv2

    cv2.setNumThreads(1)
    split_screen.write_media(*job)


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
