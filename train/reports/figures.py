"""Figures of the report, drawn with matplotlib: inline SVG on the page, PNG and SVG files next to it."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...toolkit.base.files import write_atomically
from ..scores.calibration import Calibration

_INK = "#010203"  # placeholder for the page's text colour, light or dark
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "erc-toolkit",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.framealpha": 0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}
ACCENT, SECOND = "#4477aa", "#cc6677"  # distinguishable with colour blindness, on light and dark


def styled() -> AbstractContextManager[None]:
    """Context manager that applies the style of the page's figures."""
    return matplotlib.rc_context(_STYLE)  # pyright: ignore[reportArgumentType]


def inline(figure: Figure) -> str:
    """The figure as an <svg> element that adapts to the page's width and text colour."""
    text = _svg(figure)
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    end = text.index(">")
    width = round(2 * 72 * figure.get_figwidth() / 1.5)  # pixels, a third larger than on paper
    return re.sub(r' (width|height)="[^"]*"', "", text[:end]) + f' style="max-width: {width}px"' + text[end:]


def save(figure: Figure, stem: Path) -> None:
    """Writes STEM.png (200 dpi) and STEM.svg, dark on white."""
    image = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(image, format="png", dpi=200, facecolor="white")
    write_atomically(stem.with_suffix(".png"), image.getvalue())
    write_atomically(stem.with_suffix(".svg"), _svg(figure).encode())


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    with styled():
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None})
    return out.getvalue()


def confusion_figure(labels: Sequence[str], confusion: np.ndarray) -> Figure:
    """Counts (C, C) of true class (down) by predicted class (across), shaded by the share of the true class."""
    confusion = np.asarray(confusion)
    with styled():
        size = 1.6 + 0.62 * len(labels)
        figure = Figure(figsize=(size + 0.6, size), layout="constrained")
        axes = figure.subplots()
        share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
        names = [_wrapped(label) for label in labels]
        _cells(axes, names, names, share, [[str(count) for count in row] for row in confusion], vmin=0, vmax=1)
        axes.set_aspect("equal")
        axes.set(xlabel="predicted", ylabel="true")
        axes.tick_params(axis="x", rotation=45)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right")
    return figure


def reliability_figure(calibration: Calibration) -> Figure:
    """Accuracy by confidence, against perfect calibration."""
    with styled():
        figure = Figure(figsize=(4.4, 3.8), layout="constrained")
        axes = figure.subplots()
        width = 1 / len(calibration.counts)
        centres = (np.arange(len(calibration.counts)) + 0.5) * width
        axes.bar(centres, np.nan_to_num(calibration.accuracy), 0.9 * width, color=ACCENT, label="accuracy")
        axes.plot([0, 1], [0, 1], color=SECOND, linestyle="--", label="perfect calibration")
        axes.set(xlabel="probability of the predicted emotion", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
        axes.legend(loc="upper left")
    return figure


def layers_figure(shares: Sequence[float]) -> Figure:
    """The share of each layer as a bar, from layer 0, with a line where all of them would be equal."""
    with styled():
        figure = Figure(figsize=(6, 2.8), layout="constrained")
        axes = figure.subplots()
        axes.bar(np.arange(len(shares)), shares, 0.8, color=ACCENT)
        axes.axhline(1 / len(shares), color=SECOND, linestyle="--", label="mean of all layers")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set(xlabel="layer", ylabel="share", ylim=(0, None))
        axes.legend()
    return figure


def dots_figure(
    names: Sequence[str],
    means: Sequence[float],
    deviations: Sequence[float],
    points: Sequence[Sequence[float]],
    label: str,
) -> Figure:
    """Mean and standard deviation of each variant of a study, with a dot per seed; in percent."""
    with styled():
        lines = sum(_wrapped(name, 44).count("\n") + 1 for name in names)
        figure = Figure(figsize=(7, 1 + 0.24 * len(names) + 0.18 * lines), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(names))
        for place, values in zip(places, points, strict=True):
            axes.plot(values, [place] * len(values), "o", color=SECOND, markersize=4, alpha=0.7)
        axes.errorbar(means, places, xerr=deviations, fmt="D", color=ACCENT, capsize=4)
        axes.set_yticks(places, [_wrapped(name, 44) for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set(xlabel=label)
        axes.grid(axis="x", alpha=0.3)
    return figure


def ranking_figure(
    names: Sequence[str], values: Sequence[float], bounds: Sequence[tuple[float, float]], filled: Sequence[bool]
) -> Figure:
    """A dot with its interval for each name, the first on top; those that are not `filled` are rings."""
    with styled():
        figure = Figure(figsize=(7, 0.9 + 0.32 * len(names)), layout="constrained")
        axes = figure.subplots()
        for place, (value, (low, high), solid) in enumerate(zip(values, bounds, filled, strict=True)):
            axes.plot([low, high], [place, place], color=ACCENT, linewidth=1.5)
            axes.plot(value, place, "o", color=ACCENT, markerfacecolor=ACCENT if solid else "none", markersize=7)
        axes.set_yticks(range(len(names)), [_wrapped(name, 40) for name in names])
        axes.set(xlabel="test weighted F1, percent", ylim=(len(names) - 0.5, -0.5))
        axes.grid(alpha=0.3, axis="x")
    return figure


def bars_figure(
    places: Sequence[str],
    bars: tuple[str, Sequence[float], Sequence[float]],
    line: tuple[str, Sequence[float], Sequence[float]],
    across: str,
    up: str,
) -> Figure:
    """A measure as bars and another as a line over `places`: of each the name, means and deviations, in percent."""
    with styled():
        figure = Figure(figsize=(6, 3.8), layout="constrained")
        axes = figure.subplots()
        at = np.arange(len(places))
        axes.bar(at, bars[1], 0.6, yerr=bars[2], color="#ddcc77", ecolor=_INK, capsize=3, label=bars[0])
        axes.errorbar(at, line[1], yerr=line[2], color="#aa3377", marker="o", markersize=4, capsize=3, label=line[0])
        axes.set_xticks(at, places)
        low = min(*bars[1], *line[1])
        high = max(*bars[1], *line[1])
        room = max(high - low, 1.0)
        axes.set(xlabel=across, ylabel=up, ylim=(max(0.0, low - room), high + 0.6 * room))
        axes.grid(axis="y", alpha=0.3)
        axes.legend(ncols=2)
    return figure


def lines_figure(
    places: Sequence[str] | Sequence[float],
    lines: Mapping[str, Sequence[float]],
    across: str,
    up: str,
    deviations: Mapping | None = None,
) -> Figure:
    """One line per name over `places`, which are numbers or strings; NaN leaves a gap."""
    with styled():
        figure = Figure(figsize=(7 if len(lines) <= 6 else 9, 3.8), layout="constrained")
        axes = figure.subplots()
        numbers = [place for place in places if isinstance(place, (int, float))]
        texts = [str(place) for place in places if isinstance(place, str)]
        across_at = np.arange(len(texts)) if texts else np.array(numbers)
        for name, values in lines.items():
            error = None if deviations is None else deviations.get(name)
            axes.errorbar(across_at, values, yerr=error, marker="o", markersize=4, capsize=3, label=_wrapped(name, 40))
        if texts:
            axes.set_xticks(across_at, [_wrapped(text, 12) for text in texts])
        axes.set(xlabel=across, ylabel=up)
        axes.grid(alpha=0.3)
        if len(lines) > 6:
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
        elif len(lines) > 1:
            axes.legend()
    return figure


def grid_figure(
    down: Sequence[object], across: Sequence[object], values: np.ndarray, names: tuple[str, str], label: str
) -> Figure:
    """Percentages (down, across) for every combination of two settings; NaN leaves a cell empty."""
    with styled():
        figure = Figure(figsize=(1.8 + 0.85 * len(across), 1.3 + 0.55 * len(down)), layout="constrained")
        axes = figure.subplots()
        texts = [[f"{value:.2f}" if np.isfinite(value) else "" for value in row] for row in values]
        _cells(
            axes,
            [_wrapped(str(x)) for x in down],
            [_wrapped(str(x)) for x in across],
            np.ma.masked_invalid(values),
            texts,
        )
        axes.set(xlabel=names[1], ylabel=names[0], title=label)
        axes.title.set_fontsize("medium")
    return figure


def _cells(
    axes: Axes,
    down: Sequence[str],
    across: Sequence[str],
    shade: np.ndarray,
    texts: Sequence[Sequence[str]],
    vmin: float | None = None,
    vmax: float | None = None,
) -> None:
    """Draws shaded cells (down, across) with text, as vector graphics rather than an image."""
    right, below = (np.arange(len(names) + 1) - 0.5 for names in (across, down))
    drawn = axes.pcolormesh(right, below, shade, cmap="Blues", vmin=vmin, vmax=vmax)
    axes.invert_yaxis()
    axes.set_xticks(range(len(across)), across)
    axes.set_yticks(range(len(down)), down)
    axes.spines[:].set_visible(False)
    for i, row in enumerate(texts):
        for j, text in enumerate(row):
            if text:
                dark = float(np.asarray(drawn.norm(shade[i, j]))) > 0.5
                axes.text(j, i, text, ha="center", va="center", color="white" if dark else "#102030")


def _wrapped(text: str, most: int = 16) -> str:
    """The whole text, in lines of at most `most` characters."""
    return textwrap.fill(text, most).replace("$", r"\$")  # matplotlib would start a formula
