"""Seven features of a corpus in one pass against seven passes: time by the clock, and the work on the media.

The encoders have real weights' shapes with random weights (`--shape`), so the values mean nothing and the times do. The
features of both ways are compared: they must be the same numbers.

    python benchmarks/features.py iemocap=IEMOCAP_FOLDER meld=MELD_FOLDER --face-model yunet.onnx --lips-model lrasd.pt
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from random_encoders import image_model, speech_model, text_model, video_model

from erc_toolkit.extract.api import extract
from erc_toolkit.extract.corpora.registry import read_corpus
from erc_toolkit.toolkit.manifest import Manifest
from erc_toolkit.toolkit.store import FeatureStore

# What a worker does to a file whatever features are wanted.
MEDIA = ("decoding", "faces and frames", "moving lips")


def lines(scratch: Path, shape: str, texts: list[str]) -> list[str]:
    """Seven features: one of text, three of audio, three of video."""
    text = text_model(scratch / "roberta", shape, texts)
    speech = speech_model(scratch / "wavlm", shape)
    image, video = image_model(scratch / "clip", shape), video_model(scratch / "videomae", shape)
    return [
        f"text:{text}@pooling=mean",
        "opensmile:ComParE_2016",
        "opensmile:IS10",
        f"speech:{speech}@layers=each",
        "face:denseface@weights=random",
        f"image:{image}",
        f"video:{video}",
    ]


def run(manifest: Manifest, out: Path, features: list[str], options: dict) -> tuple[float, float]:
    """Seconds by the clock without loading, and seconds of work on the media."""
    began = time.perf_counter()
    summary = extract(manifest, out, features=tuple(features), notify=lambda line: None, **options)
    seconds = time.perf_counter() - began - summary.costs.stages["load"]
    return seconds, sum(summary.costs.work.get(name, 0.0) for name in MEDIA)


def compare(one: Path, others: list[Path]) -> float:
    """The greatest difference between the features of a store and those of several."""
    worst = 0.0
    with FeatureStore.open(one) as store:
        for path in others:
            with FeatureStore.open(path) as other:
                for name in other.feature_names():
                    mine, theirs = store.feature(name), other.feature(name)
                    assert mine.reasons().tolist() == theirs.reasons().tolist(), name
                    worst = max(worst, float(np.abs(mine.values() - theirs.values()).max()))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", nargs="+", metavar="NAME=FOLDER", help="e.g. meld=MELD.Raw")
    parser.add_argument("--shape", default="tiny", choices=("tiny", "base", "large"))
    parser.add_argument("--face-model", type=Path, required=True)
    parser.add_argument("--lips-model", type=Path, required=True)
    given = parser.parse_args()
    options = {"face_model": given.face_model, "lips_model": given.lips_model, "device": "cpu"}
    print("| corpus | utterances | one pass | seven passes | ratio | media, one | media, seven | ratio | difference |")
    print("|---|---|---|---|---|---|---|---|---|")
    for word in given.corpus:
        name, _, folder = word.partition("=")
        manifest = read_corpus(name, Path(folder))
        with tempfile.TemporaryDirectory() as scratch:
            here = Path(scratch)
            seven = lines(here, given.shape, [u.text for u in manifest.utterances])
            one, media = run(manifest, here / "one.h5", seven, options)
            stores = [here / f"{number}.h5" for number in range(len(seven))]
            passes = [run(manifest, store, [line], options) for store, line in zip(stores, seven, strict=True)]
            total, media_total = (sum(column) for column in zip(*passes, strict=True))
            difference = compare(here / "one.h5", stores)
        whole = f"{one:.1f} s | {total:.1f} s | {total / one:.2f}"
        part = f"{media:.1f} s | {media_total:.1f} s | {media_total / media:.2f}"
        print(f"| {name} | {len(manifest.utterances)} | {whole} | {part} | {difference:.1g} |")


if __name__ == "__main__":
    main()
