"""Batches that shrink when they do not fit in the GPU's memory."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from ...toolkit.base.errors import UserError


class Batches:
    """Runs an encoder on batches. A batch that does not fit in memory is halved, and so are all later ones.

    Args:
        what: name of the encoder, for messages.
    """

    def __init__(self, what: str):
        self.what = what
        self.most: int | None = None

    def run(self, work: Callable[[Any], Iterable], items: Any) -> list:
        """work(items), in as many pieces as necessary: one result for each item of a sequence or array.

        Raises:
            UserError: a single item does not fit in memory.
        """
        done: list = []
        while len(done) < len(items):
            piece = items[len(done) : len(done) + (self.most or len(items))]
            try:
                done += list(work(piece))
                continue
            except torch.OutOfMemoryError:
                if len(piece) == 1:
                    raise UserError(
                        f"{self.what}: the device has too little memory for one utterance; try --device cpu"
                    ) from None
            # Not in the handler, whose traceback keeps the tensors of the failed batch alive.
            self.most = len(piece) // 2
            torch.cuda.empty_cache()
            print(f"{self.what}: out of memory; continuing with batches of {self.most}", file=sys.stderr, flush=True)
        return done

    def array(self, work: Callable[[Any], np.ndarray], items: Sequence | np.ndarray) -> np.ndarray:
        """Like `run`, for results that are rows of an array."""
        return np.stack(self.run(work, items))
