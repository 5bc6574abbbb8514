"""Training the face network on images that can be learned: the direction of their stripes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys

import cv2
import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from erc_toolkit.extract.encoders.visual.face_network import FaceEncoder, Normalisation
from erc_toolkit.extract.tuning.face import FaceRecipe, estimate_face, train_face
from erc_toolkit.extract.tuning.face_images import FERPLUS, read_face_images
from erc_toolkit.toolkit.base.errors import Interrupted, UserError
from erc_toolkit.toolkit.commands.main import main

LABELS = ("across", "down", "plain")


def picture(label: str, rng: np.random.Generator, side: int = 64) -> np.ndarray:
    y, x = np.mgrid[:side, :side] + rng.integers(0, 16)
    wave = {"across": np.sin(y / 2), "down": np.sin(x / 2), "plain": np.zeros((side, side))}[label]
    return np.clip(110 + 60 * wave + rng.normal(0, 12, (side, side)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("faces"), np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8), ("test", 8)):
        for label in LABELS:
            (root / split / label).mkdir(parents=True)
            for i in range(count):
                cv2.imwrite(str(root / split / label / f"{i}.png"), picture(label, rng))
    (root / "train" / "plain" / "broken.png").write_bytes(b"\x89PNG nothing")
    (root / "train" / "plain" / "empty.jpg").write_bytes(b"")
    (root / "train" / "plain" / "notes.txt").write_text("no picture")
    return root


QUICK = FaceRecipe(epochs=3, batch=16, patience=0)


@pytest.fixture(scope="module")
def trained(faces, tmp_path_factory):
    out, lines = tmp_path_factory.mktemp("trained") / "stripes", []
    return out, train_face(faces, out, QUICK, "cpu", lines.append), lines


def test_it_learns(trained):
    out, best, lines = trained
    assert best["test_accuracy"] > 0.6 and best["val_accuracy"] > 0.6  # chance is a third
    made = yaml.safe_load((out / "face.yaml").read_text())
    assert made["pictures"] == {"train": 72, "val": 24, "test": 24} and made["skipped"] == {"unreadable image": 2}
    assert made["selected"] == best and made["labels"] == list(LABELS) and 100 < made["mean"] < 120 and made["std"] > 20
    assert "2 left out: unreadable image" in lines[0] and len((out / "metrics.jsonl").read_text().splitlines()) == 3
    assert sorted(p.name for p in out.iterdir()) == ["face.yaml", "metrics.jsonl", "model.safetensors"]


def test_it_is_estimated_without_writing(trained, faces, tmp_path):
    out, _, _ = trained
    few, many = (estimate_face(faces, FaceRecipe(epochs=epochs, batch=16), "cpu", [].append) for epochs in (1, 1000))
    assert 0 < few["seconds"] < many["seconds"]
    assert few["bytes"] == pytest.approx((out / "model.safetensors").stat().st_size, rel=0.1)
    arguments = ["train-face", str(faces), "--out", str(tmp_path / "out"), "--epochs", "2", "--device", "cpu"]
    result = CliRunner().invoke(main, [*arguments, "--dry-run", "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["bytes"] == few["bytes"], result.output
    shown = CliRunner().invoke(main, [*arguments, "--dry-run"]).stdout
    assert "about " in shown and "MB" in shown and not (tmp_path / "out").exists()
    assert CliRunner().invoke(main, [*arguments, "--json"]).exit_code == 2


def test_its_weights_and_normalisation_are_those_of_the_encoder(trained, faces):
    out, _, _ = trained
    encoder = FaceEncoder("denseface", str(out))
    made = yaml.safe_load((out / "face.yaml").read_text())
    assert encoder.expected.normalisation.mean == (made["mean"] / 255,)
    assert encoder.provenance()["parameters"]["normalised_by"] == "the pictures it was trained on"
    assert encoder.provenance()["weights"] == "folder stripes"
    given = FaceEncoder("denseface", str(out), normalisation=Normalisation.parse("iemocap", True))
    pictures, labels = read_face_images(faces, 64).splits["test"]
    vectors = encoder(pictures)
    assert vectors.shape == (24, 342) and not np.allclose(vectors, given(pictures))
    centres = np.stack([vectors[labels == i].mean(0) for i in range(3)])
    nearest = ((vectors[:, None] - centres) ** 2).sum(-1).argmin(1)
    assert (nearest == labels).mean() > 0.6
    with pytest.raises(UserError, match=r"--visual-weights.*densenet121"):
        FaceEncoder("densenet121", str(out))


@pytest.mark.slow
def test_a_killed_run_resumes(trained, faces, tmp_path):
    out = tmp_path / "stripes"
    code = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from erc_toolkit.extract.tuning.face import FaceRecipe, train_face\n"
        "def kill(line):\n    if 'epoch 2' in line: os.kill(os.getpid(), signal.SIGKILL)\n"
        "train_face(Path(sys.argv[1]), Path(sys.argv[2]), FaceRecipe(epochs=3, batch=16, patience=0), 'cpu', kill)"
    )
    died = subprocess.run([sys.executable, "-c", code, faces, out], check=False)
    assert died.returncode == -signal.SIGKILL and not out.exists()
    with pytest.raises(UserError, match="stripes.partial.*recipe"):
        train_face(faces, out, FaceRecipe(epochs=3, batch=16, lr=1e-4, patience=0), "cpu", lambda line: None)

    def ask(line: str) -> None:
        if line.startswith("  epoch 2"):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="interrupted after epoch 2 of 3; .*same command"):
        train_face(faces, out, QUICK, "cpu", ask)
    lines = []
    train_face(faces, out, QUICK, "cpu", lines.append)
    assert "resuming after epoch 2" in lines
    assert {p.name: p.read_bytes() for p in out.iterdir()} == {p.name: p.read_bytes() for p in trained[0].iterdir()}


def test_a_folder_without_splits_is_divided(tmp_path):
    rng = np.random.default_rng(0)
    for label in LABELS:
        (tmp_path / label).mkdir()
        for i in range(20):
            cv2.imwrite(str(tmp_path / label / f"{i}.jpg"), picture(label, rng, 80 if i % 2 else 40))
    found, again, other = (read_face_images(tmp_path, 64, seed) for seed in (0, 0, 1))
    assert {split: images.shape for split, (images, _) in found.splits.items()} == {
        "train": (48, 64, 64),
        "val": (6, 64, 64),
        "test": (6, 64, 64),
    }
    assert (found.splits["val"][0] == again.splits["val"][0]).all() and not (
        found.splits["val"][0] == other.splits["val"][0]
    ).all()


def ferplus(folder, rows) -> None:
    with (
        open(folder / "fer2013.csv", "w", newline="") as pixels,
        open(folder / "fer2013new.csv", "w", newline="") as votes,
    ):
        p, v = csv.writer(pixels), csv.writer(votes)
        p.writerow(["emotion", "pixels", "Usage"])
        v.writerow(["Usage", "Image name", *FERPLUS, "unknown", "NF"])
        for usage, grey, name, counts in rows:
            p.writerow([0, " ".join(map(str, grey)), usage])
            v.writerow([usage, name, *counts])


def test_ferplus(tmp_path):
    def votes(**given: int) -> list[int]:
        return [given.get(name, 0) for name in (*FERPLUS, "unknown", "NF")]

    grey = [7] * 48**2
    rows = [
        ("Training", grey, "a", votes(happiness=9, neutral=1)),
        ("Training", grey, "b", votes(anger=5, fear=5)),
        ("Training", grey, "c", votes(unknown=6, neutral=4)),
        ("Training", grey, "", votes(NF=10)),
        ("Training", grey[:5], "d", votes(neutral=10)),
        ("PublicTest", grey, "e", votes(contempt=8)),
        ("PrivateTest", grey, "f", votes(neutral=10)),
    ]
    ferplus(tmp_path, rows)
    found = read_face_images(tmp_path, 64)
    assert [found.splits[s][1].tolist() for s in ("train", "val", "test")] == [[1, 4], [7], [0]]
    assert found.skipped == {"most votes not for an emotion": 1, "removed by FER+": 1, "damaged pixels": 1}
    assert found.splits["train"][0].shape == (2, 64, 64) and (found.splits["train"][0] == 7).all()
    ferplus(tmp_path, [*rows, ("Training", ["x"], "g", votes(neutral=1))])
    with pytest.raises(UserError, match="fer2013.csv.*fer2013new.csv"):
        read_face_images(tmp_path, 64)


def test_mistakes_are_one_line(trained, faces, tmp_path):
    def error_of(*arguments) -> str:
        result = CliRunner().invoke(main, ["train-face", *map(str, arguments), "--device", "cpu"])
        assert result.exit_code == 1 and result.output.strip().count("\n") == 0, result.output
        return result.output

    assert str(tmp_path / "none") in error_of(tmp_path / "none", "--out", tmp_path / "o")
    assert f"{trained[0]}: " in error_of(faces, "--out", trained[0])
    (tmp_path / "empty").mkdir()
    assert "no image for 'train'" in error_of(tmp_path / "empty", "--out", tmp_path / "o")
    (tmp_path / "fer").mkdir()
    (tmp_path / "fer" / "fer2013.csv").write_text("emotion,pixels,Usage\n")
    assert "fer2013new.csv" in error_of(tmp_path / "fer", "--out", tmp_path / "o")
    assert not (tmp_path / "o").exists() and not list(tmp_path.glob("*.partial"))
