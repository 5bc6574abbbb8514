"""A model with the store's data, set up as training does it, whose steps can be timed one at a time."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from ...toolkit.base.device import check_precision, pick_device, synchronize
from ..data.features import read_feature
from ..loop.evaluation import predict
from ..loop.execution import check_execution, make_gradients
from ..loop.plan import Plan, training_data
from ..loop.seeding import seed_everything
from ..loop.step import make_optimizer, training_step


class TimedSteps:
    """An untrained model of a plan on a device.

    Args:
        plan: the store and the settings.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".

    Attributes:
        device: the device.
        model: the model.
        parts: the training dialogues in batches, in the store's order.

    Raises:
        UserError: the device is not available, or does not support the precision or execution.
    """

    def __init__(self, plan: Plan, device: str) -> None:
        self.device, self._config = pick_device(device), plan.config
        check_precision(self._config.train.precision, self.device, "train.precision")
        check_execution(self._config, self.device)
        seed_everything(self._config.train.seed)
        self.model = plan.model().to(self.device)
        matrices = {m: read_feature(plan.store, f) for m, f in plan.features.items()}
        self._data = training_data(plan, matrices)[0].to(self.device)
        self._optimizer = make_optimizer(self.model, self._config.train)
        self._computed = make_gradients(self.model, self._config.train, self.device)
        self.parts = torch.from_numpy(plan.division.train).split(self._config.train.batch_size)

    def train(self, parts: Sequence[torch.Tensor]) -> float:
        """Seconds of a training step on each of some batches of dialogues, executed as `train.execution` says."""
        return self._seconds(functools.partial(self._train, parts))

    def infer(self, dialogues: np.ndarray) -> float:
        """Seconds of a prediction for some dialogues."""
        settings = self._config.train
        work = functools.partial(predict, self.model, self._data, dialogues, settings.batch_size, settings.precision)
        return self._seconds(work)

    def _train(self, parts: Sequence[torch.Tensor]) -> None:
        settings = self._config.train
        self.model.train()
        for part in parts:
            # Past every warm-up, so that all that the model does in training is done.
            training_step(
                self.model, self._optimizer, self._data.batch(part), settings.epochs, settings, self._computed
            )

    def _seconds(self, work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        synchronize(self.device)
        return time.perf_counter() - began
