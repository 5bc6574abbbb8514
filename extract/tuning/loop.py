"""The training that fine-tunings share: updates, learning rate, validation after each epoch, resuming, and the output.

What is learned, from what, is a `Learner`; `fine_tune` trains one and publishes its folder.
"""

from __future__ import annotations

import io
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, redirect_stderr
from dataclasses import MISSING, asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from ...toolkit.base.checkpoint import TrainedParts
from ...toolkit.base.device import fork_generators, matrix_precision, products_in
from ...toolkit.base.errors import Interrupted, UserError
from ...toolkit.base.extras import require_extra
from ...toolkit.base.interrupt import interruptible
from ...toolkit.base.progress import Stages
from ...toolkit.base.schedule import fairseq_linear_factor
from ..encoders.finetuned import RECORD
from .adapters import ADAPTER, TrainedState, merged, trained
from .epochs import Epochs, fingerprint_of, partial_folder, publish
from .processes import Processes

PRECISIONS = ("float32", "bfloat16")
ADAPTERS_LR = 1e-4  # of adapters, which start at nothing and are few, where --lr is not given


@dataclass(frozen=True)
class TuningRecipe:
    """Hyperparameters that all fine-tunings have. `micro_batch` is the batch in memory."""

    epochs: int = 30
    batch: int = 32
    micro_batch: int = 8
    lr: float | None = None
    dropout: float | None = None
    attention_dropout: float = 0.1
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = 1e-6
    warm_up: float = 0.06
    select: str = "accuracy"
    seed: int = 0
    lora: int = 0
    gradient_checkpointing: bool = False
    precision: str = "float32"
    device_map: bool = False

    LATER: ClassVar[tuple[str, ...]] = ("lora", "gradient_checkpointing", "precision", "device_map")

    def check(self) -> None:
        """Raises a UserError for a precision that fine-tuning does not have, or adapters without their package."""
        if self.precision not in PRECISIONS:
            raise UserError(f"--precision {self.precision}: fine-tuning has {' and '.join(PRECISIONS)}")
        if self.lora:
            require_extra("--lora", "peft", "llm")

    def shown(self) -> dict[str, Any]:
        """As a record has it; settings that recipes did not always have appear only if they were changed, so that a
        training by the first recipe is recorded, and resumed, as it always was.
        """
        defaults = {one.name: one.default for one in fields(self) if one.default is not MISSING}
        found = asdict(self) | {"betas": list(self.betas)}
        return {name: value for name, value in found.items() if name not in self.LATER or value != defaults[name]}


class Learner(ABC):
    """A model with the examples that it learns from. A subclass sets the attributes.

    Attributes:
        model: what is trained; on its device.
        device: of its inputs.
        labels: for "train" and "val", int64 (N,) class indices.
        fingerprint: JSON values by name that determine the training, besides the recipe and the device.
    """

    model: Any
    device: torch.device
    labels: Mapping[str, Tensor]
    fingerprint: Mapping[str, object]

    @abstractmethod
    def loss(self, rows: Tensor) -> Tensor:
        """The sum of the losses of some training examples, int64 (n,); a scalar with its graph."""

    @abstractmethod
    def scores(self, rows: range) -> Tensor:
        """Scores of some validation examples: float32 (n, classes), of which the softmax is the probabilities."""

    @abstractmethod
    def save(self, model: Any, folder: Path) -> None:
        """Writes a plain model and what it needs to `folder`, in the format of transformers."""

    @abstractmethod
    def summary(self) -> list[str]:
        """Lines for the user, before the training."""

    @abstractmethod
    def record(self) -> dict[str, object]:
        """What finetune.yaml says in addition to the training; see `Training.record`."""


def fine_tune(
    command: str,
    inputs: Sequence[Path],
    out: Path,
    recipe: TuningRecipe,
    device: str,
    make: Callable[[Processes, Path], Learner],
    notify: Callable[[str], None],
    log_json: bool,
    overwrite: bool,
) -> dict[str, Any]:
    """Trains a learner and writes the epoch that is best on the validation split.

    Args:
        command: whose work it is.
        inputs: what is read.
        out: output folder.
        recipe: the hyperparameters, with nothing left open.
        device: auto, cpu, cuda, cuda:N or mps.
        make: makes the learner for these processes, whose files are in a folder; the generators are seeded.
        notify: called with a line for each epoch.
        log_json, overwrite: as for the commands.

    Returns:
        The line of metrics.jsonl of the selected epoch.

    Raises:
        UserError: see `extract.tuning.text.finetune`.
    """
    with Processes.joined(device) as processes:
        where, first = processes.device, processes.first
        work = partial_folder(out, command, inputs, overwrite) if first else nullcontext(_partial(out))
        with work as folder, fork_generators(where), products_in("float32", where):
            processes.wait()  # until the first one has the folder
            torch.manual_seed(recipe.seed)
            learner = make(processes, folder)
            run = Training(learner, recipe, folder, processes, notify if first else _silent)
            try:
                with interruptible() as stop:
                    for line in learner.summary() if first else ():
                        notify(line)
                    run.train(log_json, stop)
            except torch.OutOfMemoryError:
                less = f"--micro-batch {max(1, recipe.micro_batch // 2)}"
                more = "" if recipe.gradient_checkpointing else " or --gradient-checkpointing"
                raise UserError(f"out of memory on {where}; try {less}{more}") from None
            if run.epochs.epoch < recipe.epochs:
                raise Interrupted(
                    f"interrupted after epoch {run.epochs.epoch} of {recipe.epochs}; run the same command again to "
                    "resume"
                )
            if first:
                run.finish()
                publish(folder, out, run.epochs, RECORD, run.record())
            processes.wait()
    return run.best


def _partial(out: Path) -> Path:
    return out.with_name(out.name + ".partial")


def _silent(line: str) -> None:
    """What the processes other than the first say."""


class Training:
    """One fine-tuning in progress.

    The model of the best epoch is in `folder`; or, if only adapters or some layers are trained, those are in the
    checkpoint, and the whole model is written at the end.
    """

    def __init__(
        self,
        learner: Learner,
        recipe: TuningRecipe,
        folder: Path,
        processes: Processes,
        notify: Callable[[str], None],
    ):
        self.learner, self.recipe, self.folder, self.notify = learner, recipe, folder, notify
        self._processes, r = processes, recipe
        self._lr = r.lr
        assert self._lr is not None
        model = learner.model
        if r.gradient_checkpointing:
            _save_activations(model)
        self._trained = [parameter for _, parameter in trained(model)]
        self._partly = len(self._trained) < len(list(model.parameters()))
        self._optimizer = torch.optim.AdamW(self._trained, self._lr, r.betas, r.eps, r.weight_decay)
        self._shuffle = torch.Generator().manual_seed(r.seed)
        fingerprint = fingerprint_of(recipe=r.shown(), device=learner.device.type, **learner.fingerprint)
        parts = TrainedParts(TrainedState(model) if self._partly else model, self._optimizer, self._shuffle)
        self.epochs = Epochs(folder, fingerprint, parts, notify)

    @property
    def best(self) -> dict[str, Any]:
        """The line of the best epoch so far."""
        return self.epochs.best(f"val_{self.recipe.select}")

    def train(self, log_json: bool, stop: threading.Event) -> None:
        """Trains the remaining epochs, until `stop` is set; keeps the model that is best on the validation split."""
        r, lr, processes = self.recipe, self._lr, self._processes
        assert lr is not None
        examples = len(self.learner.labels["train"])
        updates = -(-examples // r.batch)  # per epoch
        quiet = nullcontext() if processes.first else redirect_stderr(io.StringIO())
        with quiet, Stages(log_json) as stages:
            bar = stages.stage("fine-tune", r.epochs * updates)
            bar.resume(self.epochs.epoch * updates)
            for epoch in range(self.epochs.epoch + 1, r.epochs + 1):
                self.learner.model.train()
                total, unread = 0.0, []
                order = torch.randperm(examples, generator=self._shuffle)
                for update, batch in enumerate(order.split(r.batch), (epoch - 1) * updates):
                    self._optimizer.zero_grad(set_to_none=True)
                    processes.seed(r.seed, update)
                    losses = []
                    for micro_batch in processes.share(batch.split(r.micro_batch)):
                        with matrix_precision(r.precision, self.learner.device):
                            loss = self.learner.loss(micro_batch)
                        (loss / len(batch)).backward()
                        losses.append(loss.detach())
                    processes.add_gradients(self._trained)
                    # An update late, when the device has probably computed them, so that it never runs out of work.
                    total, unread = self._add(total, unread, epoch), losses
                    factor = fairseq_linear_factor(update, r.epochs * updates, r.warm_up)
                    for group in self._optimizer.param_groups:
                        group["lr"] = lr * factor
                    self._optimizer.step()
                    bar.advance(1, f"epoch {epoch}, loss {total / examples:.3f} so far")
                    if processes.any(stop.is_set()):
                        return
                self._finish_epoch(epoch, processes.total(self._add(total, unread, epoch)) / examples)

    def _add(self, total: float, losses: list[Tensor], epoch: int) -> float:
        """The total with some losses added in their order."""
        for loss in losses:
            total += loss.item()
        if not np.isfinite(total):
            raise UserError(f"the loss is not finite in epoch {epoch}; choose a lower --lr than {self._lr:g}")
        return total

    def _finish_epoch(self, epoch: int, train_loss: float) -> None:
        """Evaluates the validation split, records the metrics, and keeps the model if it is the best so far."""
        line, key = {"epoch": epoch, "train_loss": train_loss, **self.validate()}, f"val_{self.recipe.select}"
        better = epoch == 1 or line[key] > self.best[key]
        self.notify(
            f"  epoch {epoch}: loss {train_loss:.4f}, validation loss {line['val_loss']:.4f}, accuracy "
            f"{line['val_accuracy']:.4f}, weighted F1 {line['val_weighted_f1']:.4f}{' (best)' if better else ''}"
        )
        model, first, kept = self.learner.model, self._processes.first, None
        if better and self._partly:
            kept = TrainedState(model).state_dict()
        elif better and first:
            self.learner.save(model, self.folder)
        self.epochs.done(line, kept, write=first)

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Loss, accuracy and weighted F1 on the validation split."""
        from sklearn.metrics import f1_score

        self.learner.model.eval()
        labels, size = self.learner.labels["val"], self.recipe.batch
        found = []
        for number, start in enumerate(range(0, len(labels), size)):
            rows = range(start, min(start + size, len(labels)))
            if number % self._processes.count == self._processes.rank:
                with matrix_precision(self.recipe.precision, self.learner.device):
                    scores = self.learner.scores(rows)
                found.append(scores.float().cpu())
            else:
                found.append(None)
        classes = next((scores.shape[1] for scores in found if scores is not None), 0)
        classes = int(self._processes.total(classes if self._processes.first else 0))
        rows = [
            torch.zeros(min(size, len(labels) - i * size), classes) if scores is None else scores
            for i, scores in enumerate(found)
        ]
        logits = self._processes.joined_rows(torch.cat(rows))
        predicted, none = logits.argmax(1), cast(Any, 0)  # F1 of a class that is not predicted
        return {
            "val_loss": float(torch.nn.functional.cross_entropy(logits, labels)),
            "val_accuracy": float((predicted == labels).double().mean()),
            "val_weighted_f1": float(
                f1_score(labels.numpy(), predicted.numpy(), average="weighted", zero_division=none)
            ),
        }

    def finish(self) -> None:
        """Writes the model of the best epoch, if only a part of it was kept in the checkpoint."""
        if not self._partly:
            return
        model = self.learner.model
        TrainedState(model).load_state_dict(self.epochs.kept)
        self.learner.save(merged(model) if self.recipe.lora else model, self.folder)

    def record(self) -> dict[str, object]:
        """The content of finetune.yaml."""
        own = self.learner.record()
        return {
            **own,
            "recipe": self.recipe.shown(),
            **({"adapters": f"{ADAPTER}; merged into the weights"} if self.recipe.lora else {}),
            **({"processes": self._processes.count} if self._processes.count > 1 else {}),
            "optimizer": "AdamW, no clipping of gradients; linear warm-up and decay to 0",
            "selected": self.best,
            "device": self.learner.device.type,
            "versions": {"torch": str(torch.__version__), "transformers": version("transformers")},
        }


def _save_activations(model: Any) -> None:
    """Makes a model compute its activations again in the backward pass instead of keeping them."""
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise UserError("--gradient-checkpointing: this model does not support it; leave the option out")
    with warnings.catch_warnings():  # of the name that it will have in the next line of transformers
        warnings.simplefilter("ignore", FutureWarning)
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
