"""Features that several training processes on one machine share: normalised once, then mapped into memory read-only.

Each process would otherwise read and normalise the store's matrices for itself, and hold its own copy of them. The
first that needs a matrix writes it to a file of a folder that the processes share; all of them map that file, so that
the operating system holds it once. A page would become private to a process that writes to it, which nothing does.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...toolkit.base.hashes import json_sha256
from ...toolkit.store import FeatureStore
from ..settings import DataConfig
from .features import Normaliser, fit_normalisers, normalise, read_feature
from .joined import AnyFeature, parts_of

FOLDER = ".features"  # in the folder of a study, while its runs are in progress


@dataclass(frozen=True, slots=True)
class Prepared:
    """A feature as models get it.

    Attributes:
        values: (N, D) float32, normalised; zeros where not present.
        present: (N,) bool.
        normaliser: what was applied.
    """

    values: np.ndarray
    present: np.ndarray
    normaliser: Normaliser


@contextmanager
def sharing(folder: Path | None) -> Iterator[None]:
    """A context in which processes share a folder, or none; it is empty at the start and removed in the end."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)  # what an end by force has left
    try:
        yield
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def prepared_feature(
    store: FeatureStore, feature: AnyFeature, rows: np.ndarray, config: DataConfig, folder: Path
) -> Prepared:
    """A feature that is normalised on some rows, from the folder, or put there first.

    Args:
        store: an open store.
        feature: one of its features, or several joined.
        rows: indices of the training split's utterances.
        config: how it is normalised; without `missing`, which would make it depend on the other modalities.
        folder: of the processes that share it; created if needed.

    Raises:
        UserError: as for `read_feature`.
    """
    key = json_sha256(
        {
            "content": store.content_of(part.name for part in parts_of(feature)),
            "name": feature.name,
            "rows": hashlib.sha256(np.ascontiguousarray(rows, np.int64).data).hexdigest(),
            "normalise": config.normalise,
            "clip": config.clip,
        }
    )
    values, facts = folder / f"{key}.npy", folder / f"{key}.npz"
    if not facts.exists():
        _prepare(store, feature, rows, config, values, facts)
    with np.load(facts, allow_pickle=False) as found:
        clip = float(found["clip"])
        normaliser = Normaliser(found["mean"], found["scale"], None if np.isnan(clip) else clip)
        return Prepared(np.load(values, mmap_mode="c", allow_pickle=False), found["present"], normaliser)


def _prepare(
    store: FeatureStore, feature: AnyFeature, rows: np.ndarray, config: DataConfig, values: Path, facts: Path
) -> None:
    """Writes the two files of a feature, the small one last."""
    matrices = {"": read_feature(store, feature)}
    normaliser = fit_normalisers(matrices, rows, config.normalise, config.clip)[""]
    matrix, present = matrices[""]
    normalise(matrix, present, normaliser)
    values.parent.mkdir(parents=True, exist_ok=True)
    _write_once(values, lambda path: np.save(path, matrix, allow_pickle=False))
    clip = np.nan if normaliser.clip is None else normaliser.clip
    _write_once(
        facts, lambda path: np.savez(path, present=present, mean=normaliser.mean, scale=normaliser.scale, clip=clip)
    )


def _write_once(path: Path, write: Callable[[Path], None]) -> None:
    """Writes a file that appears complete; one that another process has written in the meantime stays."""
    temporary = path.with_name(f"{path.stem}.{os.getpid()}{path.suffix}")
    write(temporary)
    try:
        os.link(temporary, path)  # never replaces a file, which others may have mapped already
    except FileExistsError:
        pass
    except OSError:  # a file system without links
        os.replace(temporary, path)
        return
    temporary.unlink()
