"""Applying a fitted reduction to features, in extraction and for new recordings."""

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
