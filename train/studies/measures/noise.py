"""Results on the test split with Gaussian noise added to the features of all modalities and of each alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ....toolkit.base.errors import UserError
from ...scores.tables import ReportTable
from ..record import StudyRecord
from .base import Measure, RunAtHand, SummarisedVariant, file_stem, mean_percent, shown_percent

if TYPE_CHECKING:
    from torch import Tensor

    from ...loop.evaluation import OpenedRun
    from ...reports.page import Section

NOISE_SEED = 0
_ALL = "all"
_KEPT_SCORES = ("weighted_f1", "accuracy", "weighted_precision")

# Maps "all" and, if there are several, each modality to level (as a string) to scores; None if nothing is labelled.
NoiseScores = dict[str, dict[str, dict[str, float] | None]]
# Measure to the same in percent, mean over the seeds; NaN if no seed has it.
NoiseSummary = dict[str, dict[str, dict[str, float]]]
_SHOWN = {"weighted_precision": "weighted precision", "weighted_f1": "weighted F1"}


class Noise(Measure[NoiseScores, NoiseSummary]):
    """`levels`: in standard deviations of each dimension over the training split."""

    keys = ("levels",)

    def check(self, given: Mapping[str, object], where: str) -> dict[str, object]:
        levels = given.get("levels", [0.0])
        if (
            not isinstance(levels, list)
            or not levels
            or not all(type(x) in (int, float) and 0 <= x < 1e6 for x in levels)
        ):
            raise UserError(f"{where}: levels must be a non-empty list of numbers that are at least 0")
        return {"levels": [float(level) for level in levels]}

    def measure(self, run: RunAtHand, settings: Mapping[str, Any]) -> NoiseScores:
        from ...loop.evaluation import opened_run

        with opened_run(run.folder, None, run.device, lambda line: None) as opened:
            return noise_scores(opened, settings["levels"])

    def summarise(self, measured: Sequence[NoiseScores]) -> NoiseSummary:
        return {
            measure: {
                which: {level: _mean(measured, which, level, measure) for level in _levels(measured)}
                for which in dict.fromkeys(which for scores in measured for which in scores)
            }
            for measure in _KEPT_SCORES
        }

    def tables(self, study: StudyRecord, variants: Sequence[SummarisedVariant[NoiseSummary]]) -> list[ReportTable]:
        levels = _levels([variant.summary["weighted_f1"] for variant in variants if variant.summary])
        tables = []
        for measure, name in _SHOWN.items():
            rows = []
            for variant in variants:
                for which, means in (variant.summary or {}).get(measure, {}).items():
                    cells = (shown_percent(means.get(level, math.nan)) for level in levels)
                    rows.append([f"{variant.name}: {which}", *cells])
            tables.append(ReportTable(f"noise_{measure}", f"{name} with noise in", ["", *levels], rows))
        return tables

    def section(self, study: StudyRecord, variants: Sequence[SummarisedVariant[NoiseSummary]]) -> Section | None:
        from ...reports.figures import grid_figure, lines_figure
        from ...reports.page import PageFigure, Section

        section = Section("Noise at test time")
        for variant in variants:
            if variant.summary is None:
                continue
            levels = list(variant.summary["weighted_f1"][_ALL])
            both = np.array([list(variant.summary[measure][_ALL].values()) for measure in _SHOWN])
            figure = grid_figure(
                list(_SHOWN.values()), levels, both, ("", "standard deviations of noise"), "test split, percent"
            )
            stem = file_stem(variant.name)
            caption = f"{variant.name}: noise in all modalities."
            section.figures.append(PageFigure(f"noise_all_{stem}", caption, figure))
            lines = {which: list(means.values()) for which, means in variant.summary["weighted_f1"].items()}
            name = f"noise_{file_stem(variant.name)}"
            rows = [[which, *(f"{value:.2f}" for value in values)] for which, values in lines.items()]
            title = f"{variant.name}: weighted F1, percent, by noise level in standard deviations"
            section.tables.append(ReportTable(name, title, ["noise in", *levels], rows))
            figure = lines_figure(
                [float(level) for level in levels], lines, "standard deviations of noise", "test weighted F1, percent"
            )
            caption = f"{variant.name}: noise in all modalities and in each alone."
            section.figures.append(PageFigure(name, caption, figure))
        return section if section.tables else None


def noise_scores(opened: OpenedRun, levels: Sequence[float]) -> NoiseScores:
    """Scores on the test split with Gaussian noise added to the features that are present.

    The noise of a dimension has `level` times its standard deviation over the training split. The same noise is drawn
    for every level and run, so that runs are comparable.
    """
    import torch

    from ...data.features import divide, rows_of
    from ...loop.evaluation import predict, score

    run, store = opened.run, opened.store
    held_out: Any = run.facts["validation"]
    division = divide(store, held_out["held_out"])
    train_rows = torch.from_numpy(rows_of(store.offsets, division.train))
    modalities = list(run.dims)
    found: NoiseScores = {}
    for which in [_ALL, *(modalities if len(modalities) > 1 else [])]:
        for level in levels:
            chosen = modalities if which == _ALL else [which]
            data = opened.data.changed(_noise_on(level, chosen, modalities, train_rows))
            settings = run.config.train
            prediction = predict(opened.model, data, division.test, settings.batch_size, settings.precision)
            prediction.check_finite(opened.run.path)
            scores = score(prediction, store.column("label"), store.labels, opened.counts)
            kept = None if scores is None else {name: scores[name] for name in _KEPT_SCORES}
            found.setdefault(which, {})[f"{level:g}"] = kept
    return found


def _noise_on(
    level: float, chosen: Sequence[str], modalities: Sequence[str], train_rows: Tensor
) -> Callable[[str, Tensor, Tensor], Tensor]:
    import torch

    def change(modality: str, x: Tensor, present: Tensor) -> Tensor:
        if modality not in chosen or level == 0:
            return x
        rows = train_rows.to(x.device)
        rows = rows[present[rows]]
        deviation = x[rows].std(0, correction=0) if len(rows) else x.new_zeros(x.shape[1])
        generator = torch.Generator().manual_seed(NOISE_SEED + modalities.index(modality))
        draw = torch.randn(x.shape, generator=generator).to(x.device)
        return torch.where(present[:, None], x + level * deviation * draw, x)

    return change


def _levels(scores: Sequence[Mapping[str, Mapping[str, object]]]) -> list[str]:
    return list(dict.fromkeys(level for one in scores for row in one.values() for level in row))


def _mean(measured: Sequence[NoiseScores], which: str, level: str, measure: str) -> float:
    found = [scores.get(which, {}).get(level) for scores in measured]
    return mean_percent([one[measure] for one in found if one])
