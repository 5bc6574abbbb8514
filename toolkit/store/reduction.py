"""Reduced features: their names, and applying a fitted reduction, in extraction and for new recordings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def apply_reduction(numbers: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Reduces rows of a source feature, float32 (n, S), to float32 (n, dim).

    Args:
        numbers: the parameters, as `Feature.reduction` returns them: `columns`, or `mean`, `scale` and `components`.
        x: the rows.
    """
    if "columns" in numbers:
        return np.asarray(x, np.float32)[:, numbers["columns"]]
    z = (np.asarray(x, np.float64) - numbers["mean"]) / numbers["scale"]
    with np.errstate(over="ignore"):  # the code that stores the rows checks for infinity
        return (z @ numbers["components"]).astype(np.float32)


def reduced_name(source: str, to: int, method: str = "anova", name: str | None = None) -> str:
    """The "modality/name" of a reduced feature.

    Args:
        source: "modality/name" of the feature that is reduced.
        to: number of dimensions.
        method: of `erc_toolkit.extract.reduce.METHODS`.
        name: the name in place of the usual one.
    """
    modality, stem = source.split("/")
    return f"{modality}/{f'{stem}-{method}{to}' if name is None else name.removeprefix(f'{modality}/')}"
