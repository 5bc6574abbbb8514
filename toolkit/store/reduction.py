"""Applying the fitted numbers of a reduced feature, in extraction and to new recordings."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def apply_reduction(numbers: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Rows of a source feature, float32 (n, S), to the reduced one's, float32 (n, dim).

    Args:
        numbers: as `erc_toolkit.toolkit.store.Feature.reduction` gives them: `columns`, or `mean`, `scale` and `components`.
        x: the rows.
    """
    if "columns" in numbers:
        return np.asarray(x, np.float32)[:, numbers["columns"]]
    z = (np.asarray(x, np.float64) - numbers["mean"]) / numbers["scale"]
    with np.errstate(over="ignore"):  # infinity is looked for by who stores the rows
        return (z @ numbers["components"]).astype(np.float32)
