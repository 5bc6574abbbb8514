"""The processes of one fine-tuning: one, or several with the same weights that share each batch (`accelerate launch`).

Every process computes its share of a batch's micro-batches; the gradients are added up before each update, so that all
keep the same weights. The first one writes the files and talks to the user.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...toolkit.base.device import pick_device
from ...toolkit.base.errors import UserError
from ...toolkit.base.extras import require_extra


def launched() -> bool:
    """Whether this process is one of several that `accelerate launch` or torchrun started."""
    return "RANK" in os.environ and os.environ.get("WORLD_SIZE", "1") not in ("", "0", "1")


def is_first() -> bool:
    """Whether this process is the one that writes and talks."""
    return not launched() or os.environ.get("RANK") == "0"


class Processes:
    """This process among those of the fine-tuning; alone unless several were launched.

    Attributes:
        rank, count: number of this process from 0, and how many there are.
        device: of this process.
    """

    def __init__(self, device: torch.device, rank: int = 0, count: int = 1) -> None:
        self.device, self.rank, self.count = device, rank, count

    @classmethod
    @contextmanager
    def joined(cls, device: str) -> Iterator[Processes]:
        """The processes of this run, connected until the end of the context.

        Args:
            device: the option; of several processes each takes its own GPU, or all the CPU.

        Raises:
            UserError: the device is not here, accelerate is not installed, or one GPU is named for several processes.
        """
        if not launched():
            yield cls(pick_device(device))
            return
        require_extra("a fine-tuning of several processes", "accelerate", "llm")
        from accelerate import PartialState

        if device not in ("auto", "cuda", "cpu"):
            raise UserError(f"--device {device}: several processes take a GPU each; leave the option out, or give cpu")
        state = PartialState(cpu=device == "cpu")
        try:
            yield cls(torch.device(state.device or "cpu"), state.process_index, state.num_processes)
        finally:
            state.destroy_process_group()

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, parts: Sequence[Tensor]) -> Sequence[Tensor]:
        """This process's parts of a batch."""
        return parts[self.rank :: self.count]

    def seed(self, seed: int, update: int) -> None:
        """Gives each process its own random numbers for an update; alone, they simply continue."""
        if self.count > 1:
            torch.manual_seed((seed * 1_000_003 + update) * 4096 + self.rank)

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Adds up the gradients of all processes; a parameter that none of them used keeps no gradient."""
        if self.count == 1:
            return
        used = torch.tensor([p.grad is not None for p in parameters], dtype=torch.float32, device=self.device)
        torch.distributed.all_reduce(used)
        for parameter, count in zip(parameters, used.tolist(), strict=True):
            if count:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                torch.distributed.all_reduce(parameter.grad)

    def total(self, value: float) -> float:
        """The sum of a number over all processes."""
        if self.count == 1:
            return value
        sums = torch.tensor([value], dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(sums)
        return float(sums.item())

    def any(self, value: bool) -> bool:
        """Whether it is true in any process."""
        return self.total(float(value)) > 0

    def joined_rows(self, rows: Tensor) -> Tensor:
        """Rows of which each process has computed some and left the others zero; float32 on the CPU."""
        if self.count == 1:
            return rows
        there = rows.to(self.device)
        torch.distributed.all_reduce(there)
        return there.cpu()

    def wait(self) -> None:
        """Until all processes are here."""
        self.total(0.0)
