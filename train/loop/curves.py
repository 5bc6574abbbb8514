"""Training curves as an image."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...toolkit.base.files import write_atomically
from .records import EpochLine, scores_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = "curves.png"


def write_curves(folder: Path, lines: Sequence[EpochLine], split: str, selected: int, protocol: str) -> None:
    """Saves `curves_figure` as curves.png in the run's folder."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # pyplot would look for a display

    image = io.BytesIO()
    FigureCanvasAgg(curves_figure(lines, split, selected, protocol)).print_png(image)
    write_atomically(folder / CURVES, image.getvalue())


def curves_figure(lines: Sequence[EpochLine], split: str, selected: int, protocol: str) -> Figure:
    """Loss and weighted F1 over the epochs, with the selected epoch.

    Args:
        lines: of metrics.jsonl.
        split: the selection split.
        selected: the selected epoch.
        protocol: the label of the selection protocol, for the title.
    """
    from matplotlib.figure import Figure

    epochs = [line["epoch"] for line in lines]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    figure.suptitle(f"selected by: {protocol}; epoch {selected}", fontsize="medium")
    losses, scores = figure.subplots(1, 2)
    losses.plot(epochs, [line["loss"] for line in lines], label="train (with dropout)")
    losses.plot(epochs, [_number(scores_of(line, split)["loss"]) for line in lines], label=split)
    losses.set(xlabel="epoch", ylabel="loss")
    scores.plot(
        epochs,
        [100 * scores_of(line, split)["weighted_f1"] for line in lines],
        label=f"{split} weighted F1",
        color="C1",
    )
    scores.plot(
        epochs, [100 * scores_of(line, split)["accuracy"] for line in lines], label=f"{split} accuracy", color="C2"
    )
    scores.set(xlabel="epoch", ylabel="percent")
    for axes in (losses, scores):
        axes.axvline(selected, color="0.6", linestyle=":", label="selected epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend()
        axes.grid(alpha=0.3)
    return figure


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
