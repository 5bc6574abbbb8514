"""Folders with one `.npy` file per utterance, as the MER challenges (2023 to 2025), GCNet and others publish features.

`FEATURES/EXTRACTOR/UTTERANCE.npy` contains a vector (D,) or frames (T, D). For a feature of faces there may be a folder
`UTTERANCE/` instead, with one vector per face.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ...base.errors import UserError
from ...base.reading.foreign_text import match_names
from ...base.words import counted
from ..arrays import feature_name, load_array
from ..pack import NO_FEATURE, Pack, add_rows

_SUFFIX = ".npy"
_MOST_FILES = 1_000_000


def features_in(path: Path, given: str | None) -> list[tuple[str, Path]]:
    """The features of a folder: what the user wrote before `=`, or from the name of the folder, "modality/name"; or
    those of the folders in it that are called after a modality.

    Raises:
        UserError: the folder contains no .npy files, or its modality is unknown.
    """
    if next(_files(path), None) is None:
        raise UserError(
            f"{path}: a folder without .npy files; give the folder with one UTTERANCE.npy for each utterance"
        )
    try:
        return [(feature_name(path, given), path)]
    except UserError:
        below = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and next(_files(folder), None)]
        if given is not None or not below:
            raise
        return [(feature_name(folder, None), folder) for folder in below]


def add_folder(pack: Pack, name: str, path: Path, keep_zeros: bool) -> None:
    """Adds a folder of arrays, named after utterances, as a feature.

    Args:
        pack: a pack with utterances.
        name: "modality/name" of the feature.
        path: the folder. An utterance's file is ID.npy, directly in it or in a folder below; or the files of a folder
            called ID are its frames, in the order of their names.
        keep_zeros: as for `add_rows`.

    Raises:
        UserError: no file is named after an utterance, or one is not an array of numbers.
    """
    files: dict[str, list[Path]] = {}
    folders: dict[str, list[Path]] = {}
    for file in _files(path):
        below = file.relative_to(path)
        files.setdefault(file.stem, []).append(file)
        if len(below.parts) > 1:
            files.setdefault(below.with_suffix("").as_posix(), []).append(file)
            folders.setdefault(file.parent.name, []).append(file)
    ids = [u.id for u in pack.utterances]
    single, several = match_names(ids, files), match_names(ids, folders)
    if not single and not several:
        some = ", ".join(repr(stem) for stem in list(files)[:3])
        raise UserError(
            f"{path}: has {counted(len(files), 'array')} ({some}, …), none named after an utterance ({ids[0]!r}, …)"
        )
    rows: list[np.ndarray | None] = []
    missing: dict[int, str] = {}
    used: set[Path] = set()
    for i, (utterance, dialogue) in enumerate((u.id, u.dialogue) for u in pack.utterances):
        found = files[single[utterance]] if utterance in single else []
        if len(found) > 1:  # the same name in several folders: that of the dialogue
            found = [file for file in found if file.parent.name == dialogue]
        parts = folders[several[utterance]] if not found and utterance in several else []
        if found:
            rows.append(_frames_of(found[0]))
        elif parts:
            rows.append(_joined(sorted(parts)))
        else:
            rows.append(None)
            missing[i] = NO_FEATURE
        used |= {*found[:1], *parts}
    every = {file for found in files.values() for file in found}
    if extra := len(every - used):
        pack.problems.append(f"{name}: {counted(extra, 'file')} of {path.name} not named after an utterance; skipped")
    add_rows(pack, name, rows, missing, keep_zeros)


def _frames_of(file: Path) -> np.ndarray:
    """The array of a file, (D,) or (T, D)."""
    array = load_array(file)
    if array.dtype.kind not in "fiu":
        raise UserError(f"{file}: contains {array.dtype}, not numbers")
    if array.ndim > 2:
        array = array.squeeze()  # (1, T, D) of a batch of one
    if array.ndim > 2:
        raise UserError(f"{file}: an array of shape {array.shape}; an utterance has a vector (D,) or frames (T, D)")
    return array.reshape(1) if array.ndim == 0 else array


def _joined(files: list[Path]) -> np.ndarray | None:
    """The vectors of several files as frames (T, D); those of another width than the first are left out."""
    frames = [np.atleast_2d(_frames_of(file)) for file in files]
    frames = [f for f in frames if f.size and f.shape[1] == frames[0].shape[1]]
    return np.concatenate(frames) if frames else None


def _files(path: Path) -> Iterator[Path]:
    """The .npy files below a folder, in the order of their names. Links to folders are not followed."""
    count = 0
    for folder, below, names in os.walk(path):
        below.sort()
        for name in sorted(names):
            if name.lower().endswith(_SUFFIX) and not name.startswith("."):
                count += 1
                if count > _MOST_FILES:
                    raise UserError(
                        f"{path}: contains more than {_MOST_FILES:,} arrays; name the folder of one feature"
                    )
                yield Path(folder, name)
