"""Parameters and running time of every variant; nothing is trained, as neither depends on the learned weights."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from ....toolkit.base.errors import UserError
from ...scores.tables import ReportTable
from ..record import StudyRecord, name_with_note
from .base import Measure, RunAtHand, SummarisedVariant

if TYPE_CHECKING:
    from ...loop.plan import Plan
    from ...reports.page import Section

ROUNDS = 5  # timed calls of each variant, in turns, after one warm-up call; the median is reported


class ModelCost(TypedDict):
    """The cost of a model, medians over ROUNDS.

    `inference_ms`: per utterance of the test split; `throughput`: utterances per second; `batch_ms`: per training step
    (forward, backward, clipping and optimizer); `epoch_s`: all steps of the training split; `flops`: multiplications
    and additions in matrix products per utterance of the test split; `tflops`: the same per second of inference, in
    10^12; `spread`: lowest and highest of the rounds, of each of the timings.
    """

    device: str
    parameters: int
    inference_ms: float
    throughput: float
    batch_ms: float
    epoch_s: float
    flops: float
    tflops: float
    spread: dict[str, list[float]]


class _Column(NamedTuple):
    key: str
    factor: float
    head: str
    digits: int

    def value(self, cost: ModelCost) -> float:
        numbers: Mapping[str, Any] = cost
        return self.factor * numbers[self.key]


_COLUMNS = (
    _Column("parameters", 1, "parameters", 0),
    _Column("inference_ms", 1, "ms/utterance", 4),
    _Column("throughput", 1, "utterances/s", 0),
    _Column("batch_ms", 1, "ms/training batch", 1),
    _Column("epoch_s", 1, "s/training epoch", 2),
    _Column("flops", 1e-6, "MFLOPs/utterance", 1),
    _Column("tflops", 1, "TFLOPs/s", 4),
)


class Cost(Measure[ModelCost, ModelCost]):
    """`modules: {name: [baseline, with the module]}`: what a module adds to a baseline, both named variants.

    Measured with one seed, all variants in turns, so that whatever else the machine does falls on all of them.
    """

    keys = ("modules",)
    trains = False
    together = True

    def check(self, given: Mapping[str, object], where: str) -> dict[str, object]:
        modules = given.get("modules", {})
        if not isinstance(modules, dict) or not all(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair)
            for pair in modules.values()
        ):
            raise UserError(f"{where}: modules must map a name to two variants, [baseline, with the module]")
        return {"modules": modules}

    def measure(self, run: RunAtHand, settings: Mapping[str, Any]) -> ModelCost:
        (found,) = self.measure_together([run], settings)
        if isinstance(found, Exception):
            raise found
        return found

    def measure_together(self, runs: Sequence[RunAtHand], settings: Mapping[str, Any]) -> list[ModelCost | Exception]:
        prepared: list[TimedModel | Exception] = []
        for run in runs:
            try:
                one = timed_model(run.plan, run.device)
                one.time(keep=False)
                prepared.append(one)
            except Exception as error:  # of an execution or a size that is impossible; the others are timed
                prepared.append(error)
        timed = [one for one in prepared if isinstance(one, TimedModel)]
        for turn in range(ROUNDS):
            for one in [*timed[turn % len(timed) :], *timed[: turn % len(timed)]] if timed else []:
                one.time(keep=True)
        return [one.cost() if isinstance(one, TimedModel) else one for one in prepared]

    def summarise(self, measured: Sequence[ModelCost]) -> ModelCost:
        return measured[0]

    def tables(self, study: StudyRecord, variants: Sequence[SummarisedVariant[ModelCost]]) -> list[ReportTable]:
        head = ["", "parameters", "ms/utterance", "utterances/s", "ms/batch", "s/epoch", "MFLOPs"]
        rows = []
        for variant in variants:
            cells = ["-"] * 6
            if cost := variant.summary:
                cells = [f"{cost['parameters']:,}", f"{cost['inference_ms']:.3f}", f"{cost['throughput']:.0f}"]
                cells += [f"{cost['batch_ms']:.1f}", f"{cost['epoch_s']:.2f}", f"{cost['flops'] / 1e6:.1f}"]
            rows.append([name_with_note(variant.record), *cells])
        return [ReportTable("cost", "", head, rows)]

    def section(self, study: StudyRecord, variants: Sequence[SummarisedVariant[ModelCost]]) -> Section:
        from ...reports.page import Section
        from ...reports.published import unfilled

        measured = {variant.name: variant.summary for variant in variants if variant.summary}
        modules: Any = study.get("settings", {}).get("modules", {})
        first = None if modules or not measured else next(iter(measured.values()))
        rows = [[name, *(_cell(column, cost, first) for column in _COLUMNS)] for name, cost in measured.items()]
        device = next((cost["device"] for cost in measured.values()), "")
        note = (
            f"Medians of {ROUNDS} rounds on {device}, in which the variants take turns; in parentheses the lowest and "
            f"highest{'' if modules else '; then the change from the first row'}. FLOPs count matrix products at "
            f"inference. {unfilled(study['shows'])}"
        )
        head = ["", *(column.head for column in _COLUMNS)]
        tables = [ReportTable("cost", "Time and size", head, rows, note.strip())]
        for module, (base, full) in modules.items():
            if base in measured and full in measured:
                tables.append(_change_table(module, base, measured[base], full, measured[full]))
        return Section("Cost", tables)

    def brief(self, measured: ModelCost) -> str:
        return f"{measured['parameters']:,} parameters, {measured['inference_ms']:.3f} ms per utterance"


@dataclass(slots=True)
class TimedModel:
    """An untrained model that is timed round by round.

    Attributes:
        device: name of the device.
        parameters, flops: see `ModelCost`.
        utterances, steps: of the test split and of an epoch.
        infer, train: one pass over the test split, and over the training split.
    """

    device: str
    parameters: int
    flops: float
    utterances: int
    steps: int
    infer: Callable[[], float]
    train: Callable[[], float]
    inferences: list[float] = field(default_factory=list)
    epochs: list[float] = field(default_factory=list)

    def time(self, keep: bool) -> None:
        """One round; without `keep` it only warms up."""
        inference, epoch = self.infer(), self.train()
        if keep:
            self.inferences.append(inference)
            self.epochs.append(epoch)

    def cost(self) -> ModelCost:
        """What the rounds have shown."""
        inference, epoch = statistics.median(self.inferences), statistics.median(self.epochs)
        per_utterance = [1000 * seconds / self.utterances for seconds in self.inferences]
        per_step = [1000 * seconds / self.steps for seconds in self.epochs]
        throughputs = [self.utterances / seconds for seconds in self.inferences]
        return {
            "device": self.device,
            "parameters": self.parameters,
            "inference_ms": 1000 * inference / self.utterances,
            "throughput": self.utterances / inference,
            "batch_ms": 1000 * epoch / self.steps,
            "epoch_s": epoch,
            "flops": self.flops,
            "tflops": 1e-12 * self.flops * self.utterances / inference,
            "spread": {
                "inference_ms": [min(per_utterance), max(per_utterance)],
                "throughput": [min(throughputs), max(throughputs)],
                "batch_ms": [min(per_step), max(per_step)],
                "epoch_s": [min(self.epochs), max(self.epochs)],
                "tflops": [1e-12 * self.flops * min(throughputs), 1e-12 * self.flops * max(throughputs)],
            },
        }


def model_cost(plan: Plan, device: str) -> ModelCost:
    """Size and running time of an untrained model on the store; arguments and errors as for `timed_model`."""
    timed = timed_model(plan, device)
    for turn in range(ROUNDS + 1):
        timed.time(keep=turn > 0)
    return timed.cost()


def timed_model(plan: Plan, device: str) -> TimedModel:
    """An untrained model with the store's data on a device.

    Args:
        plan: the store and the settings.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        UserError: the device is not available, or does not support the precision or execution.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from ....toolkit.base.device import device_name
    from ...data.features import rows_of
    from ..timing import TimedSteps

    steps = TimedSteps(plan, device)
    test = plan.division.test if len(plan.division.test) else plan.division.val
    utterances = len(rows_of(plan.store.offsets, test))
    trained = [p for p in steps.model.parameters() if p.requires_grad]
    # The counter follows gradients of what has them, which there are none of in inference.
    steps.model.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        steps.infer(test)
    for parameter in trained:
        parameter.requires_grad_(True)
    return TimedModel(
        device_name(steps.device),
        sum(p.numel() for p in steps.model.parameters()),
        counter.get_total_flops() / utterances,
        utterances,
        len(steps.parts),
        lambda: steps.infer(test),
        lambda: steps.train(steps.parts),
    )


def _cell(column: _Column, cost: ModelCost, first: ModelCost | None) -> str:
    """A value with the range of its rounds, and its change from the first row unless that is None or the same."""
    shown = f"{column.value(cost):,.{column.digits}f}"
    if bounds := cost.get("spread", {}).get(column.key):
        shown += f" ({bounds[0]:,.{column.digits}f} to {bounds[1]:,.{column.digits}f})"
    if first is not None and first is not cost and column.value(first):
        shown += f", {100 * (column.value(cost) / column.value(first) - 1):+.1f} %"
    return shown


def change(column: str, base: ModelCost, full: ModelCost) -> tuple[float, float, float]:
    """A measure of a baseline, what the module adds to it, and this in percent of the baseline."""
    before: Any = base
    after: Any = full
    difference = after[column] - before[column]
    return before[column], difference, 100 * difference / before[column] if before[column] else 0.0


def _change_table(module: str, base: str, first: ModelCost, full: str, second: ModelCost) -> ReportTable:
    rows = []
    for column in _COLUMNS:
        before, added, percent = change(column.key, first, second)
        values = [f"{column.factor * before:,.{column.digits}f}", f"{column.factor * added:+,.{column.digits}f}"]
        rows.append([column.head, *values, f"{percent:+.1f} %"])
    stem = "".join(c if c.isalnum() else "_" for c in module.lower())
    note = f"Baseline: {base}. With the module: {full}."
    return ReportTable(f"cost_{stem}", f"What {module} adds", ["", "baseline", "change", "in percent"], rows, note)
