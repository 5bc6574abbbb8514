"""Dimensionality reduction of a stored feature: selection or projection, fitted on the training split only."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ..toolkit.base.errors import UserError
from ..toolkit.base.files import require_space
from ..toolkit.base.hashes import json_sha256
from ..toolkit.base.lock import locked
from ..toolkit.base.words import counted
from ..toolkit.manifest import Utterance
from ..toolkit.store import Feature, FeatureStore, StoreWriter
from ..toolkit.store.reduction import apply_reduction, reduced_name

METHODS = {
    "anova": "standardisation, then scikit-learn SelectKBest by f_classif; the selected columns are kept as they are",
    "pca": "standardisation, then scikit-learn PCA by the covariance's eigenvectors",
    "pls": "standardisation, then scikit-learn PLSRegression on one-hot labels",
}
_SPLIT = "train"
_PLS_ITERATIONS = 500
_LEAST_VARIANCE = 1e-12  # of a component relative to the largest; anything below is rounding error
# Attributes that `StoreWriter` sets afresh in every file.
_ROOT = {"format", "schema", "corpus", "toolkit_version", "created", "command", "content_sha256"}


@dataclass(frozen=True)
class Reduction:
    """A fitted reduction, with everything needed to apply it to other rows of the same source feature.

    Attributes:
        method: "anova", "pca" or "pls".
        rows: number of rows it was fitted on.
        numbers: for anova `columns` int64 (k,), ascending, and their `f_values` float64 (k,), infinite where a column
            separates the classes perfectly; otherwise `mean` and `scale` float64 (columns,) and `components` float64
            (columns, k).
        notes: statistics of the fit, for the record.
    """

    method: str
    rows: int
    numbers: dict[str, np.ndarray]
    notes: dict[str, object]

    def apply(self, x: np.ndarray) -> np.ndarray:
        """Reduces rows of the source feature, float32 (n, columns), to float32 (n, k)."""
        return apply_reduction(self.numbers, x)

    def sha256(self) -> str:
        """SHA-256 of the fitted arrays in order of name: name, dtype and shape, each followed by a zero byte, then the
        bytes.
        """
        digest = hashlib.sha256()
        for name, array in sorted(self.numbers.items()):
            digest.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def fit(x: np.ndarray, labels: np.ndarray, to: int, method: str = "anova") -> Reduction:
    """Fits a reduction on exactly the given rows.

    Args:
        x: float32 (n, columns).
        labels: int (n,), the class of each row.
        to: number of dimensions to keep.
        method: "anova", "pca" or "pls" (`METHODS`).

    Raises:
        UserError: fewer than two classes, no more rows than classes, or more dimensions than columns, rows, or
            directions in which the rows vary.
    """
    n, columns = x.shape
    classes = np.unique(labels)
    if n == 0:
        raise UserError("no training row is both present and labelled, so there is nothing to fit on")
    if len(classes) < 2:
        raise UserError(f"{counted(n, 'labelled training row')} of a single class; at least two classes are needed")
    if n <= len(classes):
        raise UserError(
            f"{n} labelled training rows of {len(classes)} classes are too few; there must be more rows than classes"
        )
    if to > min(n, columns):
        what = f"{columns} columns" if to > columns else f"{n} labelled training rows"
        raise UserError(f"--to {to} is more than the {what}; give at most {min(n, columns)}")
    x = np.asarray(x, np.float64)
    constant = x.max(axis=0) == x.min(axis=0)
    mean = np.where(constant, x[0], x.mean(axis=0))  # the mean of equal numbers may be rounded
    scale = np.where(constant, 1.0, x.std(axis=0))
    scale[scale == 0] = 1.0
    z = (x - mean) / scale
    if method == "anova":
        numbers, directions = _select(z, labels, to, int((~constant).sum()))
        notes: dict[str, object] = {}
    else:
        components, directions, notes = (_pca if method == "pca" else _pls)(z, labels, to)
        numbers = {"mean": mean, "scale": scale, "components": components}
    if directions < to:
        found = counted(directions, "varying column" if method == "anova" else f"{method} direction")
        raise UserError(f"--to {to} is more than the {found} in the {counted(n, 'labelled training row')}")
    return Reduction(method, n, {k: np.ascontiguousarray(v) for k, v in numbers.items()}, notes)


def _select(z: np.ndarray, labels: np.ndarray, to: int, varying: int) -> tuple[dict[str, np.ndarray], int]:
    from sklearn.feature_selection import SelectKBest, f_classif

    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore", UserWarning)  # about constant columns: they rank last
        chosen = SelectKBest(f_classif, k=to).fit(z, labels)
    columns = chosen.get_support(indices=True).astype(np.int64)
    return {"columns": columns, "f_values": chosen.scores_[columns]}, varying


def _pca(z: np.ndarray, _labels: np.ndarray, to: int) -> tuple[np.ndarray, int, dict[str, object]]:
    from sklearn.decomposition import PCA

    model = PCA(to, svd_solver="covariance_eigh").fit(z)
    variance = model.explained_variance_
    directions = int((variance > _LEAST_VARIANCE * variance[0]).sum())
    return model.components_.T, directions, {"explained_variance_ratio": float(model.explained_variance_ratio_.sum())}


def _pls(z: np.ndarray, labels: np.ndarray, to: int) -> tuple[np.ndarray, int, dict[str, object]]:
    from sklearn.cross_decomposition import PLSRegression
    from sklearn.exceptions import ConvergenceWarning

    one_hot = (labels[:, None] == np.unique(labels)).astype(np.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # counted below
        # When the labels are fully explained before all directions are found.
        warnings.simplefilter("ignore", UserWarning)
        model = PLSRegression(to, scale=False, max_iter=_PLS_ITERATIONS).fit(z, one_hot)
    unconverged = sum(i >= _PLS_ITERATIONS for i in model.n_iter_)
    variance = (model.x_scores_**2).sum(axis=0)  # zero if it stopped early, rounding error if the rows span no more
    directions = int((variance > _LEAST_VARIANCE * variance.max()).sum())
    return model.x_rotations_, directions, {"unconverged_components": unconverged}


def reduce_store(
    path: Path, source: str, to: int, method: str = "anova", name: str | None = None, command: str = ""
) -> tuple[str, Reduction]:
    """Adds a reduced feature to a store, next to its source; the other features are copied unchanged.

    Args:
        path: the store; it is replaced atomically once everything is written, and otherwise left unchanged.
        source: "modality/name" of the feature to reduce.
        to: number of dimensions to keep.
        method: "anova", "pca" or "pls".
        name: name of the new feature, without the modality; SOURCE-METHODn if None.
        command: the command line, for the record.

    Returns:
        "modality/name" of the new feature, and the fitted reduction.

    Raises:
        OSError: there is no space for the store on the disk.
        UserError: no such store or feature, a name that is taken or invalid, a damaged store, or as for `fit`.
    """
    path = Path(path)
    with locked(path, "reduce"), FeatureStore.open(path) as store:
        feature = store.feature(source)
        modality = source.split("/")[0]
        name = reduced_name(source, to, method, name).split("/", 1)[1]
        if not re.fullmatch(r"\w[\w.+-]*", name):
            raise UserError(f"{path}: --name {name!r}: use letters, digits, '_', '-', '.' and '+' only")
        new = f"{modality}/{name}"
        if new in store.feature_names():
            raise UserError(f"{path}: already has {new}; choose another name with --name")
        store.verify()  # the new store gets a new content hash, which must not cover up damage
        present, labels = feature.present(), store.column("label")
        rows = present & (labels >= 0) & (store.column("split") == _SPLIT)
        values = feature.values()
        try:
            reduction = fit(values[rows], labels[rows], to, method)
        except UserError as error:
            raise UserError(f"{path}: {source}: {error.message}") from None
        reduced = np.zeros((len(store), to), np.float32)
        reduced[present] = reduction.apply(values[present])
        if len(wild := np.flatnonzero(~np.isfinite(reduced).all(axis=1))):
            worst = store.column("id")[wild[0]]
            raise UserError(f"{path}: {source}: the projection of {worst} overflows float32; use --method anova")
        fitted_bytes = sum(array.nbytes for array in reduction.numbers.values())
        # HDF5 does not survive a failed write, so the free space is checked first.
        require_space(path, path.stat().st_size + int(1.1 * (reduced.nbytes + fitted_bytes)) + (1 << 20))
        old = str(store.attrs.get("command", ""))
        with StoreWriter(
            path,
            corpus=store.corpus,
            labels=store.labels,
            utterances=utterances_of(store),
            command=f"{old} && {command}" if old and command else old or command,
            attrs={key: value for key, value in store.attrs.items() if key not in _ROOT},
        ) as writer:
            for other in store.feature_names():
                writer.copy_feature(store.feature(other))
            writer.add_feature(
                modality,
                name,
                reduced,
                present,
                feature.reasons(),
                attrs=_recipe(feature, values, reduction, labels[rows], to),
                dimension_names=_names(feature, reduction, to),
                reduction=reduction.numbers,
            )
    return new, reduction


def _recipe(
    feature: Feature, values: np.ndarray, reduction: Reduction, labels: np.ndarray, to: int
) -> dict[str, object]:
    """How the feature was computed, for its attributes."""

    recipe = {
        "extractor": "erc-toolkit reduce",
        "model": METHODS[reduction.method],
        "source": feature.name,
        "source_fingerprint": str(feature.attrs.get("fingerprint", "")),
        "source_values_sha256": hashlib.sha256(np.ascontiguousarray(values).data).hexdigest(),
        "versions": {"scikit-learn": version("scikit-learn"), "numpy": version("numpy")},
        "parameters": {"method": reduction.method, "to": to, "split": _SPLIT, **reduction.notes},
        "method": reduction.method,
        "fitted_split": _SPLIT,
        "fitted_rows": reduction.rows,
        "fitted_classes": len(np.unique(labels)),
        "fitted_sha256": reduction.sha256(),
    }
    if "licence" in feature.attrs:
        recipe["licence"] = str(feature.attrs["licence"])
    return {**recipe, "fingerprint": json_sha256(recipe)}


def _names(feature: Feature, reduction: Reduction, to: int) -> list[str]:
    if reduction.method != "anova":
        return [f"{reduction.method}-{i}" for i in range(1, to + 1)]
    names = feature.dimension_names()
    return [names[i] for i in reduction.numbers["columns"]] if names else []


def utterances_of(store: FeatureStore) -> list[Utterance]:
    """The rows of a store as utterances, from which `StoreWriter` can write the same columns again."""

    def maybe(value: float) -> float | None:
        return None if np.isnan(value) else float(value)

    def columns(*names: str) -> Iterator[tuple]:
        return zip(*(store.column(name) for name in names), strict=True)

    return [
        Utterance(
            id=uid,
            dialogue=store.dialogue_ids[dialogue],
            position=int(position),
            speaker=store.speaker_names[speaker],
            text=text,
            label=None if label < 0 else store.labels[label],
            split=split,
            media=media or None,
            start=maybe(start),
            end=maybe(end),
        )
        for uid, dialogue, position, speaker, text, label, split, media, start, end in columns(
            "id", "dialogue", "position", "speaker", "text", "label", "split", "media", "start_s", "end_s"
        )
    ]
