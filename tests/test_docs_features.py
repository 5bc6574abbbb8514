"""docs/how-to/features.md: every example runs unchanged on a store, and prints what the store contains."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from erc_toolkit.extract.encoders.kinds import KINDS, requests_of
from erc_toolkit.extract.encoders.selection import Options
from erc_toolkit.toolkit.manifest import Utterance
from erc_toolkit.toolkit.store import StoreWriter

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/how-to/features.md").read_text(encoding="utf-8")
SECTIONS = {part.split("\n", 1)[0]: part for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]}
EXAMPLES = {
    title: re.findall(r"^```python\n(.*?)^```", part, re.MULTILINE | re.DOTALL) for title, part in SECTIONS.items()
}
LIBRARIES = {"pandas": "pandas", "Hugging Face datasets": "datasets"}
EMOTIONS = ["anger", "joy", "neutral"]
DIMS = {"text/roberta-base": 8, "audio/IS10": 6, "visual/denseface": 4}


class Example:
    """A store of 12 dialogues and 50 utterances, and the arrays from which it was written."""

    def __init__(self, path: Path) -> None:
        rng = np.random.default_rng(0)
        lengths = [3, 4, 5, 6, 2, 5, 3, 4, 5, 6, 1, 6]
        rows = [(d, i) for d, length in enumerate(lengths) for i in range(length)]
        self.label = np.array([-1 if row % 11 == 7 else int(rng.integers(3)) for row in range(50)])
        self.split = np.array([("train", "train", "val", "test")[d % 4] for d, _ in rows])
        self.id = [f"d{d}_u{i}" for d, i in rows]
        self.dialogue = np.array([d for d, _ in rows])
        # The text reveals the emotion half of the time, so that a classifier's score is neither chance nor 1.
        signal = np.eye(8, dtype=np.float32)[np.where(rng.random(50) < 0.5, self.label, rng.integers(3, size=50))]
        self.values = {
            name: (rng.normal(size=(50, dim)) + (3 * signal if dim == 8 else 0)).astype(np.float32)
            for name, dim in DIMS.items()
        }
        self.face = np.arange(50) % 9 != 4
        self.values["visual/denseface"][~self.face] = 0
        utterances = [
            Utterance(
                self.id[r], f"d{d}", i, "ABC"[(d + i) % 3], f"line {r}", [*EMOTIONS, None][self.label[r]], self.split[r]
            )
            for r, (d, i) in enumerate(rows)
        ]
        with StoreWriter(path, corpus="small", labels=EMOTIONS, utterances=utterances) as writer:
            for name, values in self.values.items():
                present = self.face if name.startswith("visual") else np.ones(50, bool)
                reasons = ["" if p else "no face" for p in present]
                writer.add_feature(*name.split("/"), values, present, reasons, {"extractor": name})

    def h5py(self, printed: list[str]) -> None:
        trained = int(((self.split == "train") & (self.label >= 0)).sum())
        assert printed == [
            f"(50, 6) float32 ({trained}, 6) {EMOTIONS}",
            f"d2 (5, 6) {[f'line {r}' for r in range(7, 12)]}",
        ]

    def feature_store(self, printed: list[str]) -> None:
        assert printed[0] == f"small 50 {sorted(DIMS)} 4 visual/denseface"
        expected = []
        for d in range(12):
            mine = self.dialogue == d
            expected.append(f"d{d} {self.split[mine][0]} ({mine.sum()}, 4) {self.face[mine].sum()}")
        assert printed[1:] == expected + [str({self.id[r]: "no face" for r in np.flatnonzero(~self.face)[:5]})]

    def pytorch(self, printed: list[str]) -> None:
        lengths = [int((self.dialogue == d).sum()) for d in range(12) if d % 4 < 2]
        assert len(printed) == 1  # all six training dialogues are one batch
        shape, utterances, loss = re.fullmatch(r"\((.+)\) (\d+) (\S+)", printed[0]).groups()
        assert shape == f"6, {max(lengths)}, 12" and int(utterances) == sum(lengths)
        assert 0.7 < float(loss) < 1.8  # an untrained network's, near log 3; NaN where padding or -1 got in

    def sklearn(self, printed: list[str]) -> None:
        usable = self.label >= 0
        train, test = usable & (self.split == "train"), usable & (self.split == "test")
        x = self.values["text/roberta-base"]
        x = (x - x[train].mean(0, dtype=np.float64)) / x[train].std(0, dtype=np.float64)
        predicted = LogisticRegression(max_iter=1000).fit(x[train], self.label[train]).predict(x[test])
        score = f1_score(self.label[test], predicted, average="weighted")
        assert 0.3 < score < 1 and printed == [f"{train.sum()} + {test.sum()} utterances, weighted F1 {score:.4f}"]

    def pandas(self, printed: list[str]) -> None:
        assert printed[0] == f"(50, 8) {(self.label >= 0).sum()}"
        assert printed[1].split() == ["split", "emotion", "utterances", "with_face"]
        groups = [(s, c, (self.split == s) & (self.label == c)) for s in ("test", "train", "val") for c in range(3)]
        expected = [
            [s, EMOTIONS[c], str(rows.sum()), str(self.face[rows].sum())] for s, c, rows in groups if rows.any()
        ]
        assert [line.split() for line in printed[2:]] == expected

    def datasets(self, printed: list[str]) -> None:
        first = int(np.argmax(self.split == "test"))
        total, tested, names, name, number = re.fullmatch(r"(\d+) (\d+) (\[.*\]) (\S+) (\S+)", printed[0]).groups()
        assert (int(total), int(tested), names, name) == (
            50,
            (self.split == "test").sum(),
            str(EMOTIONS),
            self.id[first],
        )
        assert float(number) == pytest.approx(float(self.values["audio/IS10"][first].sum()), rel=1e-4)


CHECKS = {
    "h5py alone": Example.h5py,
    "FeatureStore": Example.feature_store,
    "PyTorch": Example.pytorch,
    "scikit-learn": Example.sklearn,
    "pandas": Example.pandas,
    "Hugging Face datasets": Example.datasets,
}


# How features are made, and what applies to all examples.
WITHOUT_EXAMPLE = (
    "Several features in one pass",
    "Kinds",
    "Licences",
    "Audio: encoders, layers and poolings",
    "Faces, whole frames and clips",
    "In your own code",
)


def test_every_section_has_one_example_and_a_check():
    expected = dict.fromkeys(CHECKS, 1) | dict.fromkeys(WITHOUT_EXAMPLE, 0)
    assert {title: len(blocks) for title, blocks in EXAMPLES.items()} == expected
    assert TEXT.count("```python") == len(CHECKS)


def test_the_command_and_the_file_ask_for_the_same_seven_features(tmp_path):
    part = SECTIONS["Several features in one pass"]
    blocks = re.findall(r"^```sh\n(.*?)^```", part, re.MULTILINE | re.DOTALL)
    (command,) = (block for block in blocks if "--feature" in block)
    (tmp_path / "set.yaml").write_text(*re.findall(r"^```yaml\n(.*?)^```", part, re.MULTILINE | re.DOTALL))
    lines = requests_of(Options(features=tuple(re.findall(r"--feature (\S+)", command))))
    file = requests_of(Options(feature_set=tmp_path / "set.yaml"))
    assert [one.options for one in lines] == [one.options for one in file] and len(lines) == 7


def test_the_table_of_kinds_is_that_of_the_command():
    rows = re.findall(r"^\| `(\w+)[:`][^|]*\|([^|]*)\|", SECTIONS["Kinds"], re.MULTILINE)
    assert {kind: re.findall(r"`(\w+)`", keys) for kind, keys in rows} == {k.name: [*k.keys] for k in KINDS.values()}


def run_apart(title: str, folder: Path) -> str:
    """The output of the example in its own offline process, because its library would keep that setting."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", EXAMPLES[title][0]]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("title", CHECKS)
def test_an_example_prints_the_content_of_the_store(title, tmp_path, monkeypatch, capsys):
    if title in LIBRARIES and importlib.util.find_spec(LIBRARIES[title]) is None:
        pytest.skip(f"{LIBRARIES[title]} is not installed; erc-toolkit does not need it")
    store = Example(tmp_path / "store.h5")
    if title == "Hugging Face datasets":
        printed = run_apart(title, tmp_path)
    else:
        monkeypatch.chdir(tmp_path)
        torch.manual_seed(0)
        exec(compile(EXAMPLES[title][0], f"docs/how-to/features.md, {title}", "exec"), {"__name__": "__main__"})
        printed = capsys.readouterr().out
    CHECKS[title](store, printed.splitlines())


def test_the_plain_example_imports_h5py_only():
    imports = re.findall(r"^\s*(?:import|from) (\w+)", EXAMPLES["h5py alone"][0], re.MULTILINE)
    assert imports == ["h5py"]
