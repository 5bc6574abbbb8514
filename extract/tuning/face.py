"""Training of the field's 342-dimensional face network, whose weights were never published.

The recipe is that of the group that published the features: Adam at 1e-3, halved when validation accuracy stops
improving, batches of 64, random crops from images padded by 8 pixels, mirrored and rotated by up to 15 degrees, and
grey levels normalised by the mean and standard deviation of the training images.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms import v2

from ...toolkit.base.checkpoint import TrainedParts
from ...toolkit.base.device import fork_generators, pick_device, products_in, to_device
from ...toolkit.base.errors import Interrupted, UserError
from ...toolkit.base.interrupt import interruptible
from ...toolkit.base.progress import Stages
from ...toolkit.base.schedule import lr_on_plateau
from ...toolkit.base.words import counted
from ..encoders.visual.face_network import ARCHITECTURES, FACE_SETTINGS, FACE_WEIGHTS
from ..encoders.weights import load_state
from .epochs import Epochs, check_out, fingerprint_of, partial_folder, publish
from .face_images import FaceImages, read_face_images

_NETWORK = "denseface"
_TIMED, _VALIDATED = 5, 256  # updates and validation images that an estimate takes


@dataclass(frozen=True)
class FaceRecipe:
    """Hyperparameters. The learning rate is halved after `patience` epochs without a better validation accuracy."""

    epochs: int = 100
    batch: int = 64
    lr: float = 1e-3
    patience: int = 5
    pad: int = 8
    degrees: float = 15.0
    seed: int = 0


def train_face(
    source: Path,
    out: Path,
    recipe: FaceRecipe = FaceRecipe(),
    device: str = "auto",
    notify: Callable[[str], None] = print,
    log_json: bool = False,
    overwrite: bool = False,
) -> dict[str, object]:
    """Trains the network and writes the weights of the epoch with the best validation accuracy.

    Args:
        source: labelled faces, see `read_face_images`.
        out: output folder, which `--visual-weights` accepts: model.safetensors, face.yaml (normalisation, labels,
            counts, recipe, scores), metrics.jsonl.
        recipe: the hyperparameters.
        device: auto, cpu, cuda, cuda:N or mps; the precision is float32.
        notify: called with a line for each epoch.
        log_json: write progress as JSON lines.
        overwrite: replace an earlier training in `out`; other files there are kept.

    Returns:
        The line of metrics.jsonl of the selected epoch, and "test_accuracy" if there are test images.

    Raises:
        UserError: `out` is not empty, images that cannot be read, a loss that is not finite, unfinished work with
            other options, or an interruption. The state is kept in OUT.partial after each epoch, and the same call
            resumes from there with the same result.
    """
    check_out(out, [source], overwrite)
    images = read_face_images(source, ARCHITECTURES[_NETWORK].input.side, recipe.seed)
    where = pick_device(device)
    with (
        partial_folder(out, "train-face", [source], overwrite) as work,
        fork_generators(where),
        products_in("float32", where),
    ):
        torch.manual_seed(recipe.seed)
        run = _Run(images, recipe, where, work, notify)
        try:
            with interruptible() as stop:
                run.train(log_json, stop)
        except torch.OutOfMemoryError:
            raise UserError(f"out of memory on {where}; try --batch {max(1, recipe.batch // 2)}") from None
        if run.epochs.epoch < recipe.epochs:
            raise Interrupted(
                f"interrupted after epoch {run.epochs.epoch} of {recipe.epochs}; run the same command again to resume"
            )
        best, record = run.finish()
        publish(work, out, run.epochs, FACE_SETTINGS, record)
    return best


def estimate_face(
    source: Path, recipe: FaceRecipe = FaceRecipe(), device: str = "auto", notify: Callable[[str], None] = print
) -> dict[str, float]:
    """What `train_face` will take on this machine, from a few updates that are timed; nothing is written.

    Args:
        source, recipe, device, notify: as for `train_face`.

    Returns:
        "seconds" of all epochs, without the test images, and "bytes" of the weights.

    Raises:
        UserError: images that cannot be read.
    """
    began = time.perf_counter()
    images = read_face_images(source, ARCHITECTURES[_NETWORK].input.side, recipe.seed)
    reading, where = time.perf_counter() - began, pick_device(device)
    with (
        tempfile.TemporaryDirectory(prefix="erc-toolkit-") as folder,
        fork_generators(where),
        products_in("float32", where),
    ):
        torch.manual_seed(recipe.seed)
        run = _Run(images, recipe, where, Path(folder), notify)
        size = sum(tensor.numel() * tensor.element_size() for tensor in run.net.state_dict().values())
        return {"seconds": reading + recipe.epochs * run.seconds_of_an_epoch(), "bytes": size}


class _Run:
    """One training in progress; the weights of the best epoch are in `folder`."""

    def __init__(self, images: FaceImages, recipe: FaceRecipe, device: torch.device, folder: Path, notify):
        self.images, self.recipe, self.device, self.folder, self.notify = images, recipe, device, folder, notify
        self.net: Any = ARCHITECTURES[_NETWORK].build()
        self.net.classifier = nn.Linear(self.net.classifier.in_features, len(images.labels))
        self.net.to(device, memory_format=torch.channels_last)
        grey = images.splits["train"][0]
        self.mean, self.std = float(grey.mean()), max(1e-3, float(grey.std()))
        self._optimizer = torch.optim.Adam(self.net.parameters(), recipe.lr)
        self._shuffle = torch.Generator().manual_seed(recipe.seed)
        self._augment = v2.Compose(
            [
                v2.RandomCrop(grey.shape[1:], padding=recipe.pad),
                v2.RandomHorizontalFlip(),
                v2.RandomRotation(recipe.degrees),
            ]
        )
        digest = hashlib.sha256()
        for faces, labels in images.splits.values():
            digest.update(faces.tobytes() + labels.tobytes())
        fingerprint = fingerprint_of(
            recipe=asdict(recipe), labels=images.labels, pictures=digest.hexdigest(), device=device.type
        )
        parts = TrainedParts(self.net, self._optimizer, self._shuffle)
        counts = ", ".join(f"{len(labels)} {split}" for split, (_, labels) in images.splits.items())
        skipped = "".join(f"; {n} left out: {reason}" for reason, n in images.skipped.items())
        notify(f"{counted(len(images.labels), 'label')}; images: {counts}{skipped}")
        notify(
            f"{_NETWORK} on {device}: {counted(recipe.epochs, 'epoch')}, batch {recipe.batch}, lr {recipe.lr:g}, "
            f"seed {recipe.seed}"
        )
        self.epochs = Epochs(folder, fingerprint, parts, notify)

    def train(self, log_json: bool, stop: threading.Event) -> None:
        """Trains the remaining epochs, until `stop` is set; keeps the weights with the best validation accuracy."""
        labels = self.images.splits["train"][1]
        updates = -(-len(labels) // self.recipe.batch)
        with Stages(log_json) as stages:
            bar = stages.stage("train", self.recipe.epochs * updates)
            bar.resume(self.epochs.epoch * updates)
            for epoch in range(self.epochs.epoch + 1, self.recipe.epochs + 1):
                scores = [line["val_accuracy"] for line in self.epochs.lines]
                for group in self._optimizer.param_groups:
                    group["lr"] = lr_on_plateau(self.recipe.lr, scores, self.recipe.patience)
                self.net.train()
                total, unread = 0.0, None
                for batch in self._batches():
                    loss = self._update(batch)
                    # A batch late, when the device has probably computed it, so that it never runs out of work.
                    total, unread = self._add(total, unread, epoch), (loss, len(batch))
                    bar.advance(1, f"epoch {epoch}")
                    if stop.is_set():
                        return
                self._validate(epoch, self._add(total, unread, epoch) / len(labels))

    def _batches(self) -> list[torch.Tensor]:
        """An epoch's batches of training images, int64 indices; batch normalisation needs more than one image."""
        order = torch.randperm(len(self.images.splits["train"][1]), generator=self._shuffle)
        return [batch for batch in order.split(self.recipe.batch) if len(batch) > 1]

    def _update(self, batch: torch.Tensor) -> torch.Tensor:
        """Makes an update; returns the loss, which the device may still be computing."""
        faces, labels = self.images.splits["train"]
        augmented = torch.stack([self._augment(torch.from_numpy(faces[i])[None]) for i in batch.tolist()])
        loss = nn.functional.cross_entropy(
            self._logits(augmented), to_device(torch.from_numpy(labels)[batch], self.device)
        )
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        return loss.detach()

    def seconds_of_an_epoch(self) -> float:
        """From a few updates after one that warms up, and a part of the validation images."""
        self.net.train()
        batches = self._batches()
        if not batches:
            return 0.0
        self._update(batches[0]).item()
        timed = (batches[1:] or batches)[:_TIMED]
        began = time.perf_counter()
        for batch in timed:
            self._update(batch).item()
        updates = (time.perf_counter() - began) / len(timed) * len(batches)
        images = len(self.images.splits["val"][1])
        began = time.perf_counter()
        self.accuracy("val", _VALIDATED)
        return updates + (time.perf_counter() - began) * max(1.0, images / _VALIDATED)

    def _add(self, total: float, unread: tuple[torch.Tensor, int] | None, epoch: int) -> float:
        """The total with a batch's mean loss, times its number of images, added."""
        if unread is not None:
            total += unread[0].item() * unread[1]
        if not math.isfinite(total):
            raise UserError(f"the loss is not finite in epoch {epoch}; choose a lower --lr than {self.recipe.lr:g}")
        return total

    def _validate(self, epoch: int, train_loss: float) -> None:
        accuracy = self.accuracy("val")
        better = epoch == 1 or accuracy > self.epochs.best("val_accuracy")["val_accuracy"]
        self.notify(
            f"  epoch {epoch}: loss {train_loss:.4f}, validation accuracy {accuracy:.4f}{' (best)' if better else ''}"
        )
        if better:
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.net.state_dict().items()}
            save_file(weights, self.folder / FACE_WEIGHTS)
        line = {
            "epoch": epoch,
            "lr": self._optimizer.param_groups[0]["lr"],
            "train_loss": train_loss,
            "val_accuracy": accuracy,
        }
        self.epochs.done(line)

    @torch.inference_mode()
    def accuracy(self, split: str, most: int | None = None) -> float:
        """Fraction of the split's images, or of the first ones, that are classified correctly."""
        self.net.eval()
        faces, labels = (part[:most] for part in self.images.splits[split])
        predicted = [self._logits(part[:, None]).argmax(1).cpu() for part in torch.from_numpy(faces).split(256)]
        return float((torch.cat(predicted).numpy() == labels).mean())

    def finish(self) -> tuple[dict[str, object], dict[str, object]]:
        """Evaluates the selected weights on the test images, once; returns the scores and the content of face.yaml."""
        best = dict(self.epochs.best("val_accuracy"))
        if len(self.images.splits["test"][1]):
            self.net.load_state_dict(load_state(self.folder / FACE_WEIGHTS))
            best["test_accuracy"] = self.accuracy("test")
        record = {
            "network": _NETWORK,
            "mean": self.mean,
            "std": self.std,
            "labels": self.images.labels,
            "pictures": {split: len(labels) for split, (_, labels) in self.images.splits.items()},
            "skipped": self.images.skipped,
            "recipe": asdict(self.recipe),
            "selected": best,
            "device": self.device.type,
            "versions": {"torch": str(torch.__version__), "torchvision": str(torchvision.__version__)},
        }
        return best, record

    def _logits(self, faces: torch.Tensor) -> torch.Tensor:
        """uint8 (n, 1, side, side) to (n, labels)."""
        normalised = (to_device(faces, self.device).float() - self.mean) / self.std
        return self.net(normalised.contiguous(memory_format=torch.channels_last))
