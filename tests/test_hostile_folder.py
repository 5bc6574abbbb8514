"""A working directory with files named like modules: no command or child process of one imports any of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import cv2
import numpy as np
import pytest
from transcribe_support import demo_voice, make_ctc, make_voices, make_whisper, write_wav
from tuning_support import tiny_speech

from erc_toolkit.toolkit.commands.main import COMMANDS

PROGRAM = Path(sys.executable).parent / "erc-toolkit"
ROOMS = ("toolkit", "extract", "train", "manifests")
OTHERS = ("click", "cv2", "xxhash", "opensmile", "random", "numpy", "torch", "h5py", "yaml", "json", "multiprocessing")


def plant(folder: Path, names: set[str], hostile: bool = True) -> Path:
    """Writes modules that append their name to the returned file when imported, and then raise."""
    marker = folder / "imported.txt"
    code = f"with open({str(marker)!r}, 'a') as file:\n    file.write(__name__ + '\\n')\n"
    code += "raise RuntimeError('imported from the working directory')\n" if hostile else ""
    for name in names:
        (folder / f"{name}.py").write_text(code)
    return marker


def command(program: list[object], arguments: list[object], folder: Path, **environment: str):
    return subprocess.run(
        [str(a) for a in (*program, *arguments)],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


EXTRACT = "extract meld {raw} --text-model {encoder} --audio-set eGeMAPSv02 --visual-model denseface".split()
EXTRACT += "--visual-weights random --face-detector haar --fps 2 --workers 2".split()
TINY = (
    "--recipe demo --set model.hidden=16 --set model.heads=2 --set model.dropout_warm_up=0 --set train.epochs=1".split()
)

# Each command with real inputs, in an order in which each finds the outputs of earlier ones.
LINES: dict[str, list[list[str]]] = {
    "manifest": [
        "manifest build meld {raw} --out m.jsonl".split(),
        "manifest stats m.jsonl".split(),
        "manifest validate m.jsonl --media --workers 2".split(),
    ],
    "extract": [[*EXTRACT, "--out", "s.h5"]],
    "merge": [[*EXTRACT, "--modalities", "audio", "--shard", "1/1", "--out", "shard.h5"], ["merge", "shard.h5"]],
    "extractors": [["extractors"]],
    "info": ["info s.h5 --missing --verify".split()],
    "reduce": ["reduce s.h5 --feature audio/eGeMAPSv02 --to 4 --method pca".split()],
    "card": ["card s.h5 --out card.md".split()],
    "export": [
        "export s.h5 --format npz --out s.npz --feature audio/eGeMAPSv02".split(),
        "export s.h5 --format parquet --out s.parquet".split(),
    ],
    "convert": ["convert s.npz --out converted.h5".split()],
    "train": [
        [*"train s.h5 --set data.audio=eGeMAPSv02-pca4 --device cpu --out".split(), run, "--seed", seed, *TINY]
        for run, seed in (("run", "0"), ("other", "1"))
    ],
    "models": [["models"]],
    "eval": ["eval run --device cpu".split()],
    "compare": ["compare run other".split()],
    "package": ["package run --out packed".split()],
    "transcribe": [
        "transcribe {talk} --asr-model {whisper} --speaker-model {voices} --device cpu --out found.json".split()
    ],
    "realign": ["realign meld {raw} --ctc-model {ctc} --faces no --device cpu --out overlay.jsonl".split()],
    "predict": ["predict packed {clip} --transcript {subtitles} --device cpu --out predicted".split()],
    "report": ["report run --out report.html --device cpu".split()],
    "study": [
        [*"study s.h5 --grid model.window=0,1 --jobs 2 --device cpu --out study".split(), *TINY]
        + ["--set", "data.audio=eGeMAPSv02"]
    ],
    "leaderboard": [
        (
            "leaderboard s.h5 --models bigru --seeds 1 --tune 1 --set train.epochs=1 --set data.audio=eGeMAPSv02 "
            "--device cpu --out board"
        ).split(),
        "leaderboard --merge board --out joined".split(),
    ],
    "finetune-text": ["finetune-text m.jsonl --text-model {encoder} --epochs 1 --device cpu --out tuned".split()],
    "finetune-speech": [
        (
            "finetune-speech m.jsonl --audio-model {speech} --epochs 1 --batch 4 --workers 2 --device cpu --out heard"
        ).split()
    ],
    "train-face": ["train-face {faces} --epochs 1 --batch 4 --device cpu --out face".split()],
    "reproduce": ["reproduce amb-dsgdn --meld s.h5 --out paper --budget quick --device cpu --dry-run".split()],
    "demo": ["demo demo --device cpu".split()],
}
# Commands whose output others read.
NEEDED = ("manifest", "extract", "reduce", "export", "train", "package")


def test_every_command_is_covered():
    assert set(LINES) == set(COMMANDS)
    assert all(any(line[0] == name for line in lines) for name, lines in LINES.items())


class Place:
    """A hostile directory in which each command is run once."""

    def __init__(self, folder: Path, inputs: dict[str, Path]) -> None:
        self.folder, self.inputs = folder, inputs
        installed = {name for name in packages_distributions() if name.isidentifier()}
        self.marker = plant(folder, {*sys.stdlib_module_names, *installed, *ROOMS, *OTHERS, "erc_toolkit"})
        for name in ("toolkit", "train"):
            (folder / name).mkdir()
            shutil.copy(folder / f"{name}.py", folder / name / "__init__.py")
        self.done: dict[str, list[subprocess.CompletedProcess]] = {}

    def run(self, name: str) -> list[subprocess.CompletedProcess]:
        """Runs a command's lines, after those of commands whose output it may need."""
        names = list(LINES)
        for earlier in names[: names.index(name) + 1]:
            if earlier not in self.done and (earlier == name or earlier in NEEDED):
                lines = [[part.format(**self.inputs) for part in line] for line in LINES[earlier]]
                more = {"PYTHONPATH": str(self.inputs["smaller"])} if earlier == "demo" else {}
                self.done[earlier] = [command([PROGRAM], line, self.folder, **more) for line in lines]
        return self.done[name]


@pytest.fixture(scope="module")
def inputs(text_encoder, intact, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for label in ("joy", "anger"):
            (folder / "faces" / split / label).mkdir(parents=True)
            for i in range(4):
                face = rng.integers(0, 255, (64, 64), np.uint8)
                cv2.imwrite(str(folder / "faces" / split / label / f"{i}.png"), face)
    (folder / "turns.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nAnn: What do you want from me?\n")
    # For `demo`, which has no option for the size of its corpus.
    (folder / "smaller").mkdir()
    (folder / "smaller" / "sitecustomize.py").write_text(
        "import sys\n"
        "if sys.argv[1:2] == ['demo']:\n"
        "    from erc_toolkit.toolkit.demo.corpus import make_corpus\n"
        "    make_corpus.__kwdefaults__.update(train=3, dev=1, test=1)\n"
    )
    return {
        "raw": intact,
        "encoder": text_encoder,
        "faces": folder / "faces",
        "clip": next((intact / "train_splits").glob("*.mp4")),
        "subtitles": folder / "turns.srt",
        "talk": write_wav(folder / "talk.wav", demo_voice("Alma", 3)),
        "whisper": make_whisper(folder / "whisper"),
        "voices": make_voices(folder / "voices"),
        "ctc": make_ctc(folder / "ctc"),
        "speech": tiny_speech(folder / "speech"),
        "smaller": folder / "smaller",
    }


@pytest.fixture(scope="module")
def place(inputs, tmp_path_factory) -> Place:
    return Place(tmp_path_factory.mktemp("hostile"), inputs)


# The others start their processes in the same way.
FAST = ("manifest", "extract", "export", "convert")


@pytest.mark.parametrize("name", [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in LINES])
def test_a_command_imports_nothing_from_the_working_directory(place, name):
    for done in place.run(name):
        assert done.returncode == 0, f"{done.args}\n{done.stderr}"
        assert not place.marker.exists(), f"{done.args} imported {place.marker.read_text()}"


def test_the_files_would_be_noticed(place, tmp_path):
    """The premise of the other tests: an interpreter with the directory on its path imports the files."""
    marker = plant(tmp_path, {"json"})
    done = command([sys.executable], ["-c", "import json"], tmp_path)
    assert done.returncode == 1 and marker.read_text() == "json\n"


@pytest.mark.slow
def test_as_a_module(inputs, tmp_path):
    """`python -m` itself searches for erc_toolkit, and for what that needs, in the working directory first."""
    marker = plant(tmp_path, {*ROOMS, *OTHERS})
    python = [sys.executable, "-m", "erc_toolkit"]
    for line in (
        "manifest build meld {raw} --out m.jsonl".split(),
        [*EXTRACT, "--modalities", "audio", "--out", "s.h5"],
        "export s.h5 --format npz --out s.npz".split(),
        "convert s.npz --out converted.h5".split(),
    ):
        done = command(python, [part.format(**inputs) for part in line], tmp_path)
        assert done.returncode == 0, f"{done.args}\n{done.stderr}"
        assert not marker.exists(), f"{done.args} imported {marker.read_text()}"


SCRIPT = """
import sys
from pathlib import Path

from erc_toolkit.extract.encoders.selection import Options
from erc_toolkit.extract.run.engine import extract
from erc_toolkit.toolkit.manifest import load_manifest

with open("ran.txt", "a") as file:
    file.write(__name__ + "\\n")
options = Options(modalities=("audio",), audio_set="eGeMAPSv02", workers=2)
print(extract(load_manifest(Path("m.jsonl")), Path("s.h5"), options).utterances)
"""


@pytest.mark.parametrize("elsewhere", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_script_runs_once_and_its_neighbours_are_not_imported(inputs, tmp_path, elsewhere):
    """The script has no `if __name__ == "__main__"`, and is in the working directory or elsewhere."""
    work = tmp_path / "work"
    home = tmp_path / "home" if elsewhere else work
    work.mkdir()
    home.mkdir(exist_ok=True)
    marker = plant(home, set(ROOMS), hostile=False)
    (home / "script.py").write_text(SCRIPT)
    built = command([PROGRAM], f"manifest build meld {inputs['raw']} --out m.jsonl".split(), work)
    assert built.returncode == 0, built.stderr
    done = command([sys.executable], [home / "script.py"], work)
    assert done.returncode == 0 and int(done.stdout.splitlines()[-1]) > 4, done.stderr
    assert (work / "ran.txt").read_text() == "__main__\n"
    assert not marker.exists()
