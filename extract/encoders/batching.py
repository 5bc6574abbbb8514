"""Batches of the network encoders: prepared while the device computes, and smaller where memory is too small."""

from __future__ import annotations

import functools
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future

import numpy as np
import torch

from ...toolkit.base.device import Memory, check_precision, device_memory, empty_cache, products_in, to_device, to_host
from ...toolkit.base.errors import UserError
from ...toolkit.base.shared_cores import Share, share
from . import remembered

Tensors = Mapping[str, torch.Tensor]


class Batches:
    """Runs a network on items in batches. The host prepares a batch while the device computes the one before it.

    The size of a batch is its number of items times the size of the largest, as it is padded. A batch that does not fit
    into the device's memory is halved, and so are all later ones; the size that fitted is remembered for the device,
    model and precision, in this process and in later ones (`remembered`).

    Args:
        what: name of the encoder, for messages.
        unit: the unit of sizes, in the plural, for messages.
        most: size of the largest batch; an item that is larger is a batch by itself.
        device: device of the network.
        precision: one of `selection.PRECISIONS`; here it decides whether matrix products are in TF32. The types of
            tensors are up to `prepare` and `compute`.
        model: what a batch's memory depends on besides its size: the kind of encoder, its weights and its settings.

    Attributes:
        most: as above, or less after a batch did not fit.
        spread: whether the network is in several places, and so may compute only one batch at a time.

    Raises:
        UserError: the device does not have the precision.
    """

    def __init__(self, what: str, unit: str, most: int, device: torch.device, precision: str, model: str):
        check_precision(precision, device, "--precision")
        self.what, self.unit, self.most = what, unit, most
        self.device, self.precision, self.model = device, precision, model
        self.spread = self._recalled = self._untested = False

    def run(
        self, sizes: Sequence[int], prepare: Callable[[range], Tensors], compute: Callable[[Tensors], torch.Tensor]
    ) -> Iterator[tuple[range, np.ndarray]]:
        """The results of the items, batch by batch, in their order.

        Batch k + 1 is prepared and launched before the result of batch k is waited for, so that at most two are under
        way. On a CPU, a launched batch is a computed one; where a run's cores are shared (`Share`), several batches are
        computed side by side instead, each by one or few threads.

        Args:
            sizes: of each item; those of similar size should be neighbours.
            prepare: from the indices of a batch to its tensors on the host. Called again for each half of a batch that
                did not fit.
            compute: from the same tensors on the device to a tensor with one row per item, without waiting for the
                device where possible.

        Yields:
            The indices of a batch, and its rows, float32 (items, …).

        Raises:
            UserError: a single item does not fit into memory.
        """
        if (own := share()) is not None and self.device.type == "cpu" and not self.spread:
            yield from self._side_by_side(own, sizes, prepare, compute)
            return
        self._recall()
        start, pending = 0, None
        while start < len(sizes):
            batch = self._next(sizes, start)
            tensors = prepare(batch)
            try:
                result = self._launch(tensors, compute)
            except RuntimeError as error:
                if not _out_of_memory(error):
                    raise
                result = None
            # Not in the handler, whose traceback keeps the tensors of the failed batch alive.
            if pending is not None:
                yield pending[0], pending[1]().numpy()
                pending = None
            if result is None:
                self._halve(sizes, batch)
                continue
            if self._untested:
                self._remember()
            pending, start = (batch, result), batch.stop
        if pending is not None:
            yield pending[0], pending[1]().numpy()

    def _side_by_side(
        self,
        own: Share,
        sizes: Sequence[int],
        prepare: Callable[[range], Tensors],
        compute: Callable[[Tensors], torch.Tensor],
    ) -> Iterator[tuple[range, np.ndarray]]:
        """The same as `run` on the cores of a share."""
        batches, start = [], 0
        while start < len(sizes):
            batches.append(self._next(sizes, start))
            start = batches[-1].stop
        lanes, threads = own.lanes(len(batches))
        pending: deque[tuple[range, Future[np.ndarray]]] = deque()
        try:
            for batch in batches:
                # In this thread: tokenizers are not made for several.
                work = functools.partial(self._computed, prepare(batch), compute, threads)
                pending.append((batch, own.submit(threads, work)))
                if len(pending) > lanes:
                    done, rows = pending.popleft()
                    yield done, rows.result()
            while pending:
                done, rows = pending.popleft()
                yield done, rows.result()
        finally:
            for _, rows in pending:
                rows.cancel()

    def _computed(self, tensors: Tensors, compute: Callable[[Tensors], torch.Tensor], threads: int) -> np.ndarray:
        torch.set_num_threads(threads)  # of the thread that this is called in
        return self._launch(tensors, compute)().numpy()

    def one(self, tensors: Tensors, compute: Callable[[Tensors], torch.Tensor]) -> np.ndarray:
        """The rows of one batch of any size, float32 (items, …); arguments as of `run`."""
        return self._launch(tensors, compute)().numpy()

    @torch.inference_mode()
    def _launch(self, tensors: Tensors, compute: Callable[[Tensors], torch.Tensor]) -> Callable[[], torch.Tensor]:
        """Gives the device a batch to compute; the result waits for its rows."""
        with products_in(self.precision, self.device):
            there = {name: to_device(tensor, self.device) for name, tensor in tensors.items()}
            return to_host(compute(there).float())

    def _next(self, sizes: Sequence[int], start: int) -> range:
        """The indices of the largest batch that begins at `start`."""
        stop, largest = start + 1, sizes[start]
        while stop < len(sizes):
            largest = max(largest, sizes[stop])
            if (stop + 1 - start) * largest > self.most:
                break
            stop += 1
        return range(start, stop)

    def _halve(self, sizes: Sequence[int], batch: range) -> None:
        if len(batch) == 1:
            raise UserError(f"{self.what}: the device has too little memory for one utterance; try --device cpu")
        self.most = len(batch) * max(sizes[i] for i in batch) // 2
        self._untested = True
        empty_cache(self.device)
        self._say(f"out of memory; continuing with batches of at most {self.most} {self.unit}")

    def _recall(self) -> None:
        """Starts with the size that fitted earlier, once."""
        if not self._recalled and (found := self._place()) is not None:
            key, memory = found
            most = remembered.recall(key, memory.free)
            if most is not None and most < self.most:
                self.most = most
                self._say(f"batches of at most {most} {self.unit}, as found earlier on {memory.device}")
        self._recalled = True

    def _remember(self) -> None:
        self._untested = False
        if (found := self._place()) is not None:
            remembered.remember(found[0], self.most, found[1].free)

    def _place(self) -> tuple[str, Memory] | None:
        """The key under which sizes are remembered, and the device's memory now; None if it is unknown."""
        if (memory := device_memory(self.device)) is None:
            return None
        return f"{memory.device}, {memory.total} bytes; {self.model}; {self.precision}", memory

    def _say(self, message: str) -> None:
        print(f"{self.what}: {message}", file=sys.stderr, flush=True)


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out; for Apple's GPUs PyTorch raises a RuntimeError that only says so."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)
