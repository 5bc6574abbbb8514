"""How a training step's gradients are computed: operation by operation, compiled, or as recorded CUDA graphs.

A small model's step is hundreds of kernels that take the host longer to launch than the device to run. Compilation
fuses them, and a graph launches all of them at once; both need shapes that repeat. Batches are therefore padded to a
few sizes, once per size compiled or recorded. Padding has no labels and is present in no modality: without dropout it
changes no number (with dropout, other random numbers are drawn).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ...toolkit.base.errors import UserError
from ..config import Config
from ..data.batch import Batch
from ..models.base import Model, ModelOutput
from ..models.registry import MODELS, model_class
from ..settings import TrainConfig
from .step import Gradients, gradients

SHORTEST = 16  # no bucket has shorter dialogues
MOST_COMPILED = 64  # buckets and decisions
_WARM_UP = 2  # passes before a recording, in which libraries allocate their workspaces


class Bucket(NamedTuple):
    """The size of a padded batch: the arguments of `Batch.padded`."""

    rows: int
    dialogues: int
    longest: int


def bucket_of(batch: Batch, dialogues: int, coarse: bool = False) -> Bucket:
    """The smallest bucket for a batch of at most the given number of dialogues.

    The longest dialogue is rounded up to a power of two, and the number of utterances to a multiple of that, so that
    one more dialogue holds the padding. If `coarse`, that number becomes a power of two as well.
    """
    longest = max(SHORTEST, _power(batch.longest))
    rows, added = -(-len(batch.labels) // longest) * longest, 1
    if coarse:
        rows = _power(rows)
        added += rows // longest // 2
    return Bucket(rows, max(dialogues, len(batch)) + added, longest)


def _power(number: int) -> int:
    """The least power of two that is not smaller."""
    return 1 << (number - 1).bit_length()


def check_execution(config: Config, device: torch.device) -> None:
    """Raises a UserError if the model or the device does not support `train.execution`."""
    how = config.train.execution
    if how != "eager" and not model_class(config.model.name).capturable:
        able = ", ".join(name for name in MODELS if model_class(name).capturable)
        raise UserError(
            f"train.execution={how}: the shapes in a step of {config.model.name} depend on more than the size of the "
            f"batch; use eager, or one of the models {able}"
        )
    # For a CPU, PyTorch 2.11 compiled a wrong gradient of an embedding (of relations, before it became a product).
    if how != "eager" and device.type != "cuda":
        raise UserError(f"train.execution={how}: needs a CUDA device, not {device.type}; use eager")


def make_gradients(model: Model[Any], settings: TrainConfig, device: torch.device) -> Gradients | None:
    """How `train.execution` computes gradients; None for one operation after the other."""
    if settings.execution == "compile":
        return Compiled(model, settings)
    if settings.execution == "cuda-graphs":
        return Recorded(model, settings, CudaRecorder(device))
    return None


class Compiled:
    """Gradients by `torch.compile`, once per bucket and decision of the host.

    Args:
        model, settings: of the run.
        backend: of torch.compile.
    """

    def __init__(self, model: Model[Any], settings: TrainConfig, backend: str = "inductor") -> None:
        self._model, self._settings = model, settings
        self._forward = torch.compile(model.forward, dynamic=False, fullgraph=True, backend=backend)

    def __call__(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor | None]:
        """As `Gradients`."""
        # Compiling takes minutes, so there are fewer and larger buckets; PyTorch would by default stop after eight.
        batch = batch.padded(*bucket_of(batch, self._settings.batch_size, coarse=True))
        decision = self._model.decide(epoch)
        with torch._dynamo.config.patch(recompile_limit=MOST_COMPILED):
            return gradients(self._model, self._settings, batch, _forward(self._forward, batch, decision))


class Recorder(Protocol):
    """Records some work once, and repeats it on the same memory."""

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """A function that repeats the work, and its result, which every repetition overwrites."""
        ...


@dataclass(frozen=True, slots=True)
class _Recording:
    """A recorded forward and backward pass: its input, how to repeat it, and where its results are."""

    batch: Batch
    repeat: Callable[[], None]
    loss: Tensor
    ratios: Tensor | None
    grads: list[Tensor | None]


class Recorded:
    """Gradients by repeating recordings, one for each bucket and decision of the host."""

    def __init__(self, model: Model[Any], settings: TrainConfig, recorder: Recorder) -> None:
        self._model, self._settings, self._recorder = model, settings, recorder
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self.recordings: dict[Hashable, _Recording] = {}

    def __call__(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor | None]:
        """As `Gradients`."""
        bucket, decision = bucket_of(batch, self._settings.batch_size), self._model.decide(epoch)
        batch = batch.padded(*bucket)
        found = self.recordings.get((bucket, decision))
        if found is None:
            found = self.recordings[bucket, decision] = self._record(batch, decision)
        else:
            for old, new in zip(_tensors(found.batch), _tensors(batch), strict=True):
                old.copy_(new)
        found.repeat()
        for parameter, grad in zip(self._parameters, found.grads, strict=True):
            parameter.grad = grad
        # Copies, because the next repetition overwrites them.
        return found.loss.clone(), None if found.ratios is None else found.ratios.clone()

    def _record(self, batch: Batch, decision: bool | None) -> _Recording:
        def work() -> tuple[Tensor, Tensor | None, list[Tensor | None]]:
            forward = _forward(self._model, batch, decision)
            loss, ratios = gradients(self._model, self._settings, batch, forward)
            return loss, ratios, [parameter.grad for parameter in self._parameters]

        repeat, results = self._recorder.record(work)
        return _Recording(batch, repeat, *results)


class CudaRecorder:
    """Records CUDA graphs. They share their memory, so results are to be used before the next repetition."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._pool = device, torch.cuda.graph_pool_handle()

    def record(self, work: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        """As `Recorder`; random numbers are those that the first repetition draws, not those of the warm-up."""
        with torch.cuda.device(self._device):
            state = torch.cuda.get_rng_state()
            here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
            aside.wait_stream(here)
            with torch.cuda.stream(aside):
                for _ in range(_WARM_UP):
                    work()
            here.wait_stream(aside)
            torch.cuda.set_rng_state(state)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool):
                results = work()
        return graph.replay, results


def _forward(model: Callable[..., ModelOutput], batch: Batch, decision: bool | None) -> Callable[[], ModelOutput]:
    """A forward pass of the first epoch: a capturable model uses the epoch only in `decide`."""
    return lambda: model(batch) if decision is None else model(batch, 0, decision)


def _tensors(batch: Batch) -> list[Tensor]:
    """Every tensor of a batch that is on the device."""
    found = [*batch.features.values(), *batch.present.values()]
    rest = (getattr(batch, field.name) for field in fields(batch) if not field.name.startswith(("offsets", "host_")))
    return found + [x for x in rest if isinstance(x, Tensor)]
