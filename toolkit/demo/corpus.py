"""The demo corpus on disk: MELD's raw layout, made from code alone.

Truth and display: each utterance has one emotion. Words, voice and face each display it with a reliability of their own
(`script.RELIABILITY`), and otherwise something neutral or one of the emotions that this modality is confused with;
what they display is drawn independently. So each carries part of the emotion and none all of it. `truth.csv` says what
was felt and what was displayed; nothing else of the toolkit reads it.
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
from ..base.errors import FaultError, UserError
from ..base.files import write_atomically
from ..base.processes import Failure, run_tasks
from .clips import write_clip
from .faces import render, speaker_look
from .script import FPS, MODALITIES, Line, stream, syllables, write_dialogue
from .voice import OUT_RATE, speak

VERSION = 1
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
    """What was made: its folder, clips in each split ("train", "dev", "test"), seconds of media, and whether it was new."""

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
    """Makes the corpus, or returns at once when the same one is there already.

    Args:
        root: folder to make; an unfinished or different demo corpus in it is replaced.
        seed: everything follows from it, whatever the number of workers.
        train, dev, test: dialogues in each split.
        workers: processes; 0 for one a core.
        progress: told how many clips of how many are done.

    Raises:
        UserError: the folder holds something else.
        FaultError: a clip could not be made.
    """
    root = Path(root)
    sizes = {"train": train, "dev": dev, "test": test}
    wanted = {"made_by": "erc-toolkit demo", "version": VERSION, "seed": seed, "dialogues": sizes}
    lines = [line for split in sizes for d in range(sizes[split]) for line in write_dialogue(seed, split, d)]
    clips = {split: sum(line.split == split for line in lines) for split in sizes}
    marker = root / "demo.json"
    made = DemoCorpus(root, clips, sum(line.seconds for line in lines), _marker(marker) != {**wanted, "finished": True})
    if not made.new:
        return made
    if root.exists() and any(root.iterdir()) and _marker(marker).get("made_by") != wanted["made_by"]:
        raise UserError(f"{root}: is not empty and not a demo corpus; name another folder")
    shutil.rmtree(root, ignore_errors=True)
    facts = manifests.load("meld.yaml")["splits"]
    for split in sizes:
        (root / facts[_MELD_SPLIT[split]]["folder"]).mkdir(parents=True)
    write_atomically(marker, json.dumps({**wanted, "finished": False}).encode())
    for split in sizes:
        _write_table(root / facts[_MELD_SPLIT[split]]["table"], [line for line in lines if line.split == split])
    _write_truth(root / "truth.csv", lines)
    jobs = [(line, root / facts[_MELD_SPLIT[line.split]]["folder"] / f"{line.name}.mp4", seed) for line in lines]
    workers = min(workers or core_count(), len(jobs))
    for done, (job, failure) in enumerate(run_tasks(jobs, _make_clip, workers), 1):
        if isinstance(failure, Failure):
            raise FaultError(f"{job[1]}: the clip could not be made: {failure.reason}")
        if progress is not None:
            progress(done, len(jobs))
    write_atomically(marker, json.dumps({**wanted, "finished": True}).encode())
    return made


def _make_clip(job: tuple[Line, Path, int]) -> None:
    import cv2

    cv2.setNumThreads(1)
    line, path, seed = job
    key = (line.split, line.dialogue, line.utterance)
    sound, loudness = speak(
        line.speaker, line.shown["voice"], syllables(line.text), line.frames, stream(seed, "voice", *key)
    )
    frames, _ = render(speaker_look(seed, line.speaker), line.shown["face"], loudness, stream(seed, "face", *key))
    write_clip(path, frames, np.stack([sound, sound], 1), fps=FPS, sample_rate=OUT_RATE)


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
    return f"{milliseconds // 3600000:02d}:{milliseconds // 60000 % 60:02d}:{milliseconds // 1000 % 60:02d},{milliseconds % 1000:03d}"


def _marker(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
