"""Parameters and running time of every variant; nothing is trained, as neither depends on the learned weights."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from ...scores.tables import ReportTable
from ..record import StudyRecord, name_with_note
from .base import Measure, RunAtHand, SummarisedVariant

if TYPE_CHECKING:
    import torch

    from ...config import Config
    from ...data.batch import Conversations
    from ...loop.plan import Plan
    from ...models.base import Model
    from ...reports.page import Section

ROUNDS = 5  # timed calls after one warm-up call; the median is reported


class ModelCost(TypedDict):
    """The cost of a model.

    `inference_ms`: per utterance of the test split; `throughput`: utterances per second; `batch_ms`: per training step
    (forward, backward, clipping and optimizer); `epoch_s`: all steps of the training split; `flops`: multiplications
    and additions in matrix products per utterance of the test split.
    """

    device: str
    parameters: int
    inference_ms: float
    throughput: float
    batch_ms: float
    epoch_s: float
    flops: float


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
)


class Cost(Measure[ModelCost, ModelCost]):
    """Measured with one seed, one variant at a time."""

    trains = False

    def measure(self, run: RunAtHand, settings: Mapping[str, Any]) -> ModelCost:
        return model_cost(run.plan, run.device)

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

        measured = [(variant.name, variant.summary) for variant in variants if variant.summary]
        rows = []
        for name, cost in measured:
            first_name, first = measured[0]
            cells = []
            for column in _COLUMNS:
                value, base = column.value(cost), column.value(first)
                change = "" if name == first_name else f" ({100 * (value / base - 1):+.1f} %)"
                cells.append(f"{value:,.{column.digits}f}{change}")
            rows.append([name, *cells])
        device = measured[0][1]["device"] if measured else ""
        note = (
            f"Medians on {device}; in parentheses, change from the first row. FLOPs count matrix products at inference."
        )
        head = ["", *(column.head for column in _COLUMNS)]
        return Section("Cost", [ReportTable("cost", "Time and size", head, rows, note)])

    def brief(self, measured: ModelCost) -> str:
        return f"{measured['parameters']:,} parameters, {measured['inference_ms']:.3f} ms per utterance"


def model_cost(plan: Plan, device: str) -> ModelCost:
    """Size and running time of an untrained model on the store.

    Args:
        plan: the store and the settings.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Raises:
        UserError: the device is not available, or does not support the precision or execution.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ....toolkit.base.device import check_precision, device_name, pick_device
    from ...data.features import read_feature, rows_of
    from ...loop.evaluation import predict
    from ...loop.execution import check_execution
    from ...loop.plan import training_data
    from ...loop.seeding import seed_everything

    target, config = pick_device(device), plan.config
    check_precision(config.train.precision, target, "train.precision")
    check_execution(config, target)
    seed_everything(config.train.seed)
    model = plan.model().to(target)
    data = training_data(plan, {m: read_feature(plan.store, f) for m, f in plan.features.items()})[0].to(target)
    test = plan.division.test if len(plan.division.test) else plan.division.val
    utterances = len(rows_of(plan.store.offsets, test))

    def infer() -> None:
        predict(model, data, test, config.train.batch_size, config.train.precision)

    inference = _seconds(infer, target)
    with FlopCounterMode(display=False) as counter:
        infer()
    parts = torch.from_numpy(plan.division.train).split(config.train.batch_size)
    epoch = _seconds(_epoch(model, data, parts, config), target)
    return {
        "device": device_name(target),
        "parameters": sum(p.numel() for p in model.parameters()),
        "inference_ms": 1000 * inference / utterances,
        "throughput": utterances / inference,
        "batch_ms": 1000 * epoch / len(parts),
        "epoch_s": epoch,
        "flops": counter.get_total_flops() / utterances,
    }


def _epoch(model: Model[Any], data: Conversations, parts: Sequence[torch.Tensor], config: Config) -> Callable[[], None]:
    """A function that trains on all the parts once, with the trainer's own step, executed as `train.execution` says."""
    from ...loop.execution import make_gradients
    from ...loop.step import make_optimizer, training_step

    optimizer = make_optimizer(model, config.train)
    computed = make_gradients(model, config.train, data.device)

    def work() -> None:
        model.train()
        for part in parts:
            training_step(model, optimizer, data.batch(part), config.train.epochs, config.train, computed)

    return work


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """Median time of several calls, in seconds, after one warm-up call."""
    from ....toolkit.base.device import synchronize

    found = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        work()
        synchronize(device)
        found.append(time.perf_counter() - began)
    return statistics.median(found[1:])
