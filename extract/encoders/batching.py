"""Batches that shrink when the GPU's memory does not hold them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from ...toolkit.base.errors import UserError


class Batches:
    """Runs an encoder on batches; one that does not fit is halved, and so are those after it.

    Args:
        what: the encoder, for messages.
    """

    def __init__(self, what: str):
        self.what = what
        self.most: int | None = None

    def run(self, work: Callable[[Any], Iterable], items: Any) -> list:
        """work(items), in as many pieces as it takes: one result for each item of a sequence or array.

        Raises:
            UserError: a single item does not fit.
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
                        f"{self.what}: the device's memory does not hold one utterance; try --device cpu"
                    ) from None
            # Not in the handler, whose traceback holds the tensors of the batch that failed.
            self.most = len(piece) // 2
            torch.cuda.empty_cache()
            print(f"{self.what}: out of memory; batches of {self.most} from here on", file=sys.stderr, flush=True)
        return done

    def array(self, work: Callable[[Any], np.ndarray], items: Sequence | np.ndarray) -> np.ndarray:
        """As `run`, for results that are rows of an array."""
        return np.stack(self.run(work, items))
