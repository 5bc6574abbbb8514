"""A small corpus of real clips, untrained encoders of every kind, and the comparison of stored features."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from test_models_by_name import image_folder, speech_folder
from test_visual_models import model_folder

from erc_toolkit.extract.encoders.selection import Options
from erc_toolkit.extract.run.engine import Summary, extract
from erc_toolkit.toolkit.manifest import Manifest, Utterance, write_manifest
from erc_toolkit.toolkit.store import FeatureStore

LABELS = ["joy", "sad"]
TEXTS = ["Hello.", "What do you want?", "I am so happy to see you!", "worst", "my day", "of my life"]
LONG_AGO = 1_500_000_000
QUICK = {"face_detector": "haar", "fps": 1.0, "workers": 1, "part_size": 2, "device": "cpu"}
FLAGS = ["--face-detector", "haar", "--fps", "1", "--workers", "1", "--part-size", "2", "--device", "cpu"]


def clips(root: Path, intact: Path, count: int = 6) -> Manifest:
    """`count` clips of the demo corpus in dialogues of three, all of them old files, and the manifest beside them."""
    root.mkdir(parents=True, exist_ok=True)
    found = sorted((intact / "train_splits").glob("dia*_utt*.mp4"))[:count]
    assert len(found) == count
    for i, clip in enumerate(found):
        shutil.copyfile(clip, root / f"u{i}.mp4")
        os.utime(root / f"u{i}.mp4", (LONG_AGO, LONG_AGO))
    rows = [
        Utterance(
            f"u{i}",
            f"d{i // 3}",
            i % 3,
            "AB"[i % 2],
            TEXTS[i % 6],
            LABELS[i % 2],
            ("train", "val")[i // 3 % 2],
            f"u{i}.mp4",
        )
        for i in range(count)
    ]
    manifest = Manifest("toy", LABELS, root, rows)
    write_manifest(manifest, root / "m.jsonl")
    return manifest


def encoders(root: Path) -> dict[str, str]:
    """A line for each kind of feature, by the feature's name in the store, with untrained encoders in `root`."""
    from erc_toolkit.toolkit.demo.encoders import make_text_encoder

    return {
        "text/words": f"text:{make_text_encoder(root / 'words', TEXTS * 3)}@context=1",
        "audio/eGeMAPSv02": "opensmile:eGeMAPSv02",
        "audio/prosody": "prosody",
        "audio/wavlm": f"speech:{speech_folder(root / 'wavlm', 'wavlm')}@layers=each",
        "visual/denseface": "face:denseface@weights=random",
        "visual/vit": f"image:{image_folder(root / 'vit', 'vit')}",
        "visual/videomae": f"video:{model_folder(root / 'videomae', 'videomae')}",
    }


def run(manifest: Manifest, out: Path, features, **more) -> tuple[Summary, list[str]]:
    """Extracts; returns the summary, and the lines that were printed."""
    lines: list[str] = []
    own = {name: more.pop(name) for name in ("shard", "overwrite", "alone") if name in more}
    options = Options(features=tuple(features), **{**QUICK, **more})
    return extract(manifest, out, options, notify=lines.append, **own), lines


def arguments(manifest: Manifest, out: Path, features, *more: object) -> list[str]:
    """The words of the same command."""
    lines = [word for line in features for word in ("--feature", line)]
    return [str(a) for a in ("extract", "manifest", manifest.root / "m.jsonl", "--out", out, *FLAGS, *lines, *more)]


def names(path: Path) -> list[str]:
    with FeatureStore.open(path) as store:
        return store.feature_names()


def content(path: Path) -> str:
    with FeatureStore.open(path) as store:
        store.verify()
        return store.content_hash


def assert_same(one: Path, other: Path, name: str, without: tuple[str, ...] = ()) -> None:
    """A feature is the same in two stores in everything that is stored of it; `without` some attributes."""
    with FeatureStore.open(one) as a, FeatureStore.open(other) as b:
        x, y = a.feature(name), b.feature(name)
        assert x.values().tobytes() == y.values().tobytes() and x.values().dtype == y.values().dtype == np.float32
        assert x.reasons().tolist() == y.reasons().tolist() and x.present().tolist() == y.present().tolist()
        assert x.made_from() == y.made_from() and x.dimension_names() == y.dimension_names()
        assert x.has_sequences == y.has_sequences
        for row in range(len(a) if x.has_sequences else 0):
            assert all((mine == theirs).all() for mine, theirs in zip(x.sequence(row), y.sequence(row), strict=True))
        mine, theirs = x.details(), y.details()
        assert mine.keys() == theirs.keys() and all((mine[key] == theirs[key]).all() for key in mine)
        left, right = ({k: v for k, v in one.attrs.items() if k not in without} for one in (x, y))
        assert left == right


def same_rows(one: Path, other: Path, name: str) -> list[bool]:
    """For each row whether the bits of a feature are the same in two stores."""
    with FeatureStore.open(one) as a, FeatureStore.open(other) as b:
        pairs = zip(a.feature(name).values(), b.feature(name).values(), strict=True)
        return [x.tobytes() == y.tobytes() for x, y in pairs]
