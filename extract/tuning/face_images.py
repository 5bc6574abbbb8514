"""Labelled images of faces: a folder of images for each emotion, or FER+'s two tables."""

from __future__ import annotations

import csv
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from ...toolkit.base.errors import UserError
from ...toolkit.manifest import SPLITS

_ENDINGS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}
# FER+ (Barsoum et al. 2016): the columns with the votes for each emotion, and the names of its splits.
FERPLUS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
_FERPLUS_SPLITS = {"Training": "train", "PublicTest": "val", "PrivateTest": "test"}
_FER_SIDE = 48


@dataclass(frozen=True)
class FaceImages:
    """Grey faces with labels.

    Attributes:
        labels: names of the emotions in index order.
        splits: for "train", "val" and "test" uint8 (N, side, side) and int64 (N,) indices into `labels`.
        skipped: number of images that could not be used, by reason.
    """

    labels: list[str]
    splits: dict[str, tuple[np.ndarray, np.ndarray]]
    skipped: dict[str, int]


def read_face_images(source: Path, side: int, seed: int = 0) -> FaceImages:
    """Reads FOLDER/{train,val,test}/LABEL/*, FOLDER/LABEL/* or a folder with fer2013.csv and fer2013new.csv.

    Args:
        source: the folder.
        side: side of the images in pixels.
        seed: seed of the random split. If the folder has no splits, one image in ten of each label goes to val and one
            to test.

    Raises:
        UserError: no such folder, no images, only one label, or tables that do not belong together.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder of labelled faces")
    if (source / "fer2013.csv").is_file():
        found = _ferplus(source, side)
    else:
        found = _folders(source, side, seed)
    for split in ("train", "val"):
        if len(found.splits[split][1]) == 0:
            raise UserError(
                f"{source}: no image for {split!r}; expected {split}/LABEL/*.png, LABEL/*.png, or FER+'s two tables"
            )
    if len(np.unique(found.splits["train"][1])) < 2:
        raise UserError(f"{source}: all training images have the same label; at least two labels are needed")
    return found


def _folders(source: Path, side: int, seed: int) -> FaceImages:
    split_dirs = [split for split in SPLITS if (source / split).is_dir()]
    roots = {split: source / split for split in split_dirs} or {"": source}
    labels = sorted(
        {d.name for root in roots.values() for d in root.iterdir() if d.is_dir() and not d.name.startswith(".")}
    )
    rows: dict[str, list[tuple[np.ndarray, int]]] = {split: [] for split in SPLITS}
    skipped: Counter[str] = Counter()
    rng = random.Random(seed)
    for split, root in roots.items():
        for index, label in enumerate(labels):
            folder = root / label
            paths = sorted(folder.iterdir()) if folder.is_dir() else []
            paths = [path for path in paths if path.suffix.lower() in _ENDINGS and not path.name.startswith("._")]
            rng.shuffle(paths)
            for at, path in enumerate(paths):
                image = _read(path, side)
                if image is None:
                    skipped["unreadable image"] += 1
                    continue
                rows[split or ("val" if at % 10 == 0 else "test" if at % 10 == 1 else "train")].append((image, index))
    return FaceImages(labels, {split: _stack(some, side) for split, some in rows.items()}, dict(skipped))


def _read(path: Path, side: int) -> np.ndarray | None:
    try:
        data = np.frombuffer(path.read_bytes(), np.uint8)
        image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if len(data) else None
    except (OSError, cv2.error):
        return None
    return None if image is None else _resized(image, side)


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    shrinks = max(image.shape) > side
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _stack(rows: list[tuple[np.ndarray, int]], side: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.stack([image for image, _ in rows]) if rows else np.zeros((0, side, side), np.uint8)
    return images, np.array([label for _, label in rows], np.int64)


def _ferplus(source: Path, side: int) -> FaceImages:
    """FER's pixels with FER+'s votes, row by row; the label is the column with the most votes, if it is an emotion."""
    votes_file = source / "fer2013new.csv"
    if not votes_file.is_file():
        raise UserError(f"{source}: fer2013.csv is there, but FER+'s fer2013new.csv is missing; add it")
    rows: dict[str, list[tuple[np.ndarray, int]]] = {split: [] for split in SPLITS}
    skipped: Counter[str] = Counter()
    with (
        open(source / "fer2013.csv", encoding="utf-8", newline="") as pixels,
        open(votes_file, encoding="utf-8", newline="") as votes,
    ):
        pairs = zip(csv.DictReader(pixels), csv.DictReader(votes), strict=True)
        try:
            for image, vote in pairs:
                if image["Usage"] != vote["Usage"]:
                    raise UserError(f"{votes_file}: its rows are not those of fer2013.csv (Usage {vote['Usage']!r})")
                counts = {name: int(vote[name]) for name in (*FERPLUS, "unknown", "NF")}
                most = max(counts, key=lambda name: counts[name])
                grey = np.array(image["pixels"].split(), np.uint8)
                if not vote["Image name"]:
                    skipped["removed by FER+"] += 1
                elif most not in FERPLUS:
                    skipped["most votes not for an emotion"] += 1
                elif len(grey) != _FER_SIDE**2:
                    skipped["damaged pixels"] += 1
                else:
                    square = _resized(grey.reshape(_FER_SIDE, _FER_SIDE), side)
                    rows[_FERPLUS_SPLITS[image["Usage"]]].append((square, FERPLUS.index(most)))
        except (KeyError, ValueError, TypeError, OverflowError, csv.Error) as error:
            raise UserError(f"{source}: fer2013.csv and fer2013new.csv do not fit together ({error})") from None
    return FaceImages(list(FERPLUS), {split: _stack(some, side) for split, some in rows.items()}, dict(skipped))
