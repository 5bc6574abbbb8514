"""Every command that writes what the user names, with small inputs that it reads."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from forked_support import forked
from test_train_support import write_store
from transcribe_support import make_ctc
from tuning_support import spoken_manifest, tiny_speech

from erc_toolkit.toolkit.manifest import Manifest, Utterance, write_manifest

TINY = ["model.hidden=8", "model.heads=2", "train.epochs=1", "model.dropout_warm_up=1"]
_SET = [word for setting in TINY for word in ("--set", setting)]
_TRAIN = ["--device", "cpu", *_SET]


@dataclass(frozen=True)
class Writer:
    """A command that writes to a path.

    Attributes:
        words: its arguments; {m} is the folder of the material, {out} what it writes.
        reads: an input of it, in the folder of the material.
        folder: whether it writes a folder; then `makes` is the name of a file that it writes there.
        again: whether it replaces its own earlier output.
    """

    words: Sequence[str]
    reads: str
    folder: bool = False
    makes: str = ""
    again: bool = True

    def arguments(self, material: Path, out: Path) -> list[str]:
        return [word.format(m=material, out=out) for word in self.words]


FAST = {
    "card": Writer(["card", "{m}/s.h5", "--out", "{out}"], "s.h5"),
    "export npz": Writer(["export", "{m}/s.h5", "--format", "npz", "--out", "{out}"], "s.h5"),
    "convert": Writer(["convert", "{m}/in.pkl", "--out", "{out}"], "in.pkl"),
    "manifest build": Writer(["manifest", "build", "folder", "{m}/raw", "--out", "{out}"], "raw/labels.csv"),
}
SLOW = {
    "export mmgcn": Writer(["export", "{m}/s.h5", "--format", "mmgcn", "--out", "{out}"], "s.h5"),
    "export mmsa": Writer(["export", "{m}/s.h5", "--format", "mmsa", "--out", "{out}"], "s.h5"),
    "export parquet": Writer(["export", "{m}/s.h5", "--format", "parquet", "--out", "{out}"], "s.h5"),
    "export huggingface": Writer(
        ["export", "{m}/s.h5", "--format", "huggingface", "--out", "{out}"], "s.h5", True, "README.md"
    ),
    "report": Writer(["report", "{m}/run", "--device", "cpu", "--out", "{out}"], "run/config.yaml"),
    "package": Writer(
        ["package", "{m}/run", "--out", "{out}", "--no-encoders"], "run/config.yaml", True, "config.yaml"
    ),
    "realign": Writer(
        "realign manifest {m}/m.jsonl --ctc-model {m}/ctc --faces no --device cpu --out {out}".split(), "m.jsonl"
    ),
    "train": Writer(["train", "{m}/s.h5", "--out", "{out}", *_TRAIN], "s.h5", True, "config.yaml", False),
    "study": Writer(
        ["study", "{m}/s.h5", "--grid", "model.window=2,5", "--out", "{out}", *_TRAIN], "s.h5", True, "study.json"
    ),
    "leaderboard": Writer(
        ["leaderboard", "{m}/s.h5", "--models", "bigru", "--seeds", "1", "--out", "{out}", *_TRAIN[:4], *_TRAIN[6:8]],
        "s.h5",
        True,
        "board.json",
    ),
    "finetune-text": Writer(
        "finetune-text {m}/m.jsonl --text-model {m}/encoder --epochs 1 --device cpu --out {out}".split(),
        "m.jsonl",
        True,
        "config.json",
        False,
    ),
    "finetune-speech": Writer(
        [
            *"finetune-speech {m}/spoken.jsonl --audio-model {m}/speech --epochs 1 --workers 1".split(),
            *"--device cpu --out {out}".split(),
        ],
        "spoken.jsonl",
        True,
        "config.json",
        False,
    ),
    "train-face": Writer(
        "train-face {m}/faces --epochs 1 --batch 4 --device cpu --out {out}".split(),
        "faces/train/a/0.png",
        True,
        "model.safetensors",
        False,
    ),
}
WRITERS = {**FAST, **SLOW}


def erc(*arguments: object, cwd: object = None) -> subprocess.CompletedProcess[str]:
    """Runs `erc-toolkit ARGUMENTS` as a process of its own."""
    code = "import runpy; runpy.run_module('erc_toolkit', run_name='__main__', alter_sys=True)"
    return forked(code, ["erc-toolkit", *arguments], cwd=cwd)


def succeed(*arguments: object) -> None:
    done = erc(*arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def one_line(done: subprocess.CompletedProcess, status: int = 1) -> str:
    """The message of a command that failed, after checking that it is one line."""
    assert done.returncode == status and "Traceback" not in done.stderr, (done.returncode, done.stderr)
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and done.stderr.splitlines()[-1] == lines[0], done.stderr
    return lines[0]


def make_material(folder: Path, *, trained: bool) -> Path:
    """Writes the inputs of the commands to a folder; the run and the encoders only if they are wanted."""
    write_store(folder / "s.h5", unlabelled=0, attrs={"options": {"precision": "float32"}})
    succeed("export", folder / "s.h5", "--format", "mmgcn", "--out", folder / "in.pkl")
    (folder / "raw").mkdir()
    (folder / "raw" / "labels.csv").write_text("id,dialogue,speaker,text,label\nu1,d1,Ann,hi,joy\nu2,d1,Bob,no,anger\n")
    if trained:
        from erc_toolkit.toolkit.demo.encoders import make_text_encoder

        succeed("train", folder / "s.h5", "--out", folder / "run", *_TRAIN)
        texts = ["I am happy", "I am sad"]
        utterances = [
            Utterance(f"u{i}", f"d{i // 4}", i % 4, "Ann", texts[i % 2], "ab"[i % 2], "val" if i > 11 else "train")
            for i in range(16)
        ]
        write_manifest(Manifest("toy", ["a", "b"], folder, utterances), folder / "m.jsonl")
        make_text_encoder(folder / "encoder", texts * 3)
        make_ctc(folder / "ctc")
        tiny_speech(folder / "speech")
        spoken_manifest(folder, "spoken.jsonl", 8)
        rng = np.random.default_rng(0)
        for split, label in ((s, n) for s in ("train", "val") for n in "ab"):
            (folder / "faces" / split / label).mkdir(parents=True)
            for i in range(4):
                cv2.imwrite(
                    str(folder / "faces" / split / label / f"{i}.png"), rng.integers(0, 255, (64, 64), np.uint8)
                )
    return folder
