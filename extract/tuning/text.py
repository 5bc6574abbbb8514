"""Fine-tuning of a text encoder as a classifier of single utterances, before its features are extracted.

The recipe is that of the field's RoBERTa features (COSMIC, feature-extraction: fairseq, task sentence_prediction): one
utterance without context, a linear-tanh-linear head on `<s>`, Adam with decoupled weight decay, linear warm-up and
decay. The learning rate decays over epochs * batches updates; fairseq drops an incomplete last batch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from ...toolkit.base.checkpoint import TrainedParts
from ...toolkit.base.device import fork_generators, pick_device, products_in, to_device
from ...toolkit.base.errors import Interrupted, UserError
from ...toolkit.base.holding_out import VALIDATION_SEED, held_out
from ...toolkit.base.interrupt import interruptible
from ...toolkit.base.progress import Stages
from ...toolkit.base.schedule import fairseq_linear_factor
from ...toolkit.base.words import counted
from ...toolkit.manifest import SPLITS, load_manifest
from ...toolkit.store import FeatureStore
from ..encoders.text.loading import load_pretrained, longest_input
from ..encoders.weights import checksum
from .epochs import Epochs, check_out, fingerprint_of, partial_folder, publish

SETTINGS = "finetune.yaml"
# Values that differ between corpora; other corpora use MELD's.
_RECIPES = {"iemocap": {"lr": 1e-6, "dropout": 0.2}, "meld": {"lr": 1e-5, "dropout": 0.1}}
# Names of the dropout settings of different encoders, for hidden states and for attention.
_DROPOUT = ("hidden_dropout_prob", "dropout")
_ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")


@dataclass(frozen=True)
class Recipe:
    """Hyperparameters. `lr` and `dropout` depend on the corpus if None; `micro_batch` is the batch in memory."""

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

    def for_corpus(self, corpus: str) -> Recipe:
        """This recipe with the corpus's values filled in."""
        own = _RECIPES["iemocap" if "iemocap" in corpus.lower() else "meld"]
        return replace(self, **{name: value for name, value in own.items() if getattr(self, name) is None})


@dataclass(frozen=True)
class Texts:
    """The labelled utterances of a corpus: for each split N texts and int64 (N,) indices into `labels`.

    `held_out` names the training dialogues that validate, if the corpus has no validation split.
    """

    corpus: str
    labels: list[str]
    splits: dict[str, tuple[list[str], torch.Tensor]]
    held_out: list[str] = field(default_factory=list)


def read_texts(path: Path) -> Texts:
    """Labelled, non-empty texts of a manifest or a feature store.

    Without a validation split, training dialogues are held out for it as `erc-toolkit train` does: the same ones, where
    each has a text.

    Raises:
        UserError: the file is neither, or it has no such texts to train on and to validate with.
    """
    import h5py

    if path.is_file() and h5py.is_hdf5(path):
        with FeatureStore.open(path) as store:
            corpus, labels = store.corpus, list(store.labels)
            names = [store.dialogue_ids[number] for number in store.column("dialogue").tolist()]
            columns = store.column("split"), store.column("label").tolist(), store.column("text")
            rows = list(zip(*columns, names, strict=True))
    else:
        manifest = load_manifest(path)
        corpus, labels = manifest.corpus, manifest.labels
        rows = [
            (u.split, -1 if u.label is None else labels.index(u.label), u.text, u.dialogue)
            for u in manifest.utterances
            if "text" not in u.mask
        ]
    usable = [row for row in rows if row[1] >= 0 and row[2].strip()]
    held: list[str] = []
    if not any(split == "val" for split, *_ in usable):
        # The dialogues that `train` chooses from: those with a label, whether or not it has a text.
        dialogues = list(dict.fromkeys(row[3] for row in rows if row[0] == "train" and row[1] >= 0))
        if len(dialogues) < 2:
            raise UserError(
                f"{path}: has no validation split, and fewer than two labelled training dialogues to hold one out of"
            )
        held = [dialogues[i] for i in held_out(len(dialogues))]
        usable = [("val", *row[1:]) if row[0] == "train" and row[3] in held else row for row in usable]
    splits = {}
    for split in SPLITS:
        own = [(text, label) for its, label, text, _ in usable if its == split]
        splits[split] = [text for text, _ in own], torch.tensor([label for _, label in own], dtype=torch.int64)
        if split != "test" and not own:
            raise UserError(
                f"{path}: the split {split!r} has no utterance with label and text; fine-tuning needs train and val"
            )
    if len(splits["train"][1].unique()) < 2:
        raise UserError(f"{path}: all training utterances have the same label; at least two labels are needed")
    return Texts(corpus, labels, splits, held)


def finetune(
    source: Path,
    text_model: str,
    out: Path,
    recipe: Recipe = Recipe(),
    device: str = "auto",
    notify: Callable[[str], None] = print,
    log_json: bool = False,
    overwrite: bool = False,
) -> dict[str, object]:
    """Trains an encoder on a corpus's training split and writes the epoch that is best on its validation split.

    Args:
        source: manifest or feature store.
        text_model: hub name or folder, as for `TextEncoder`.
        out: output folder, which `--text-model` accepts: model, tokenizer, metrics.jsonl with a line for each epoch,
            and finetune.yaml, the record of the training.
        recipe: the hyperparameters.
        device: auto, cpu, cuda, cuda:N or mps; the precision is float32.
        notify: called with a line for each epoch.
        log_json: write progress as JSON lines.
        overwrite: replace an earlier training in `out`; other files there are kept.

    Returns:
        The line of metrics.jsonl of the selected epoch.

    Raises:
        UserError: `out` is not empty, texts or model cannot be loaded, a loss that is not finite, too little memory,
            unfinished work with other options, or an interruption. The state is kept in OUT.partial after each epoch,
            and the same call resumes from there with the same result.
    """
    inputs = [source, Path(text_model)]
    check_out(out, inputs, overwrite)
    texts = read_texts(source)
    recipe = recipe.for_corpus(texts.corpus)
    where = pick_device(device)
    with (
        partial_folder(out, "finetune-text", inputs, overwrite) as work,
        fork_generators(where),
        products_in("float32", where),
    ):
        torch.manual_seed(recipe.seed)
        run = _Run(texts, text_model, recipe, where, work, notify)
        try:
            with interruptible() as stop:
                for line in run.summary():
                    notify(line)
                run.train(log_json, stop)
        except torch.OutOfMemoryError:
            raise UserError(f"out of memory on {where}; try --micro-batch {max(1, recipe.micro_batch // 2)}") from None
        if run.epochs.epoch < recipe.epochs:
            raise Interrupted(
                f"interrupted after epoch {run.epochs.epoch} of {recipe.epochs}; run the same command again to resume"
            )
        publish(work, out, run.epochs, SETTINGS, run.record())
    return run.best


class _Run:
    """One fine-tuning in progress; the model of the best epoch is in `folder`."""

    def __init__(self, texts: Texts, text_model: str, recipe: Recipe, device: torch.device, folder: Path, notify):
        from transformers import AutoModelForSequenceClassification

        self.texts, self.recipe, self.device, self.folder, self.notify = texts, recipe, device, folder, notify
        self.source = Path(text_model).name if Path(text_model).is_dir() else text_model
        dropout = {_DROPOUT: recipe.dropout, _ATTENTION_DROPOUT: recipe.attention_dropout}
        self.tokenizer, self.model = load_pretrained(
            text_model,
            AutoModelForSequenceClassification,
            dropout,
            num_labels=len(texts.labels),
            id2label=dict(enumerate(texts.labels)),
            label2id={label: i for i, label in enumerate(texts.labels)},
        )
        self.tokenizer.padding_side = "right"
        self.max_tokens = longest_input(self.tokenizer, self.model.config)
        encoder = self.model.base_model.state_dict()
        self.before = checksum({k: v for k, v in encoder.items() if not k.startswith("pooler.")})
        self.model.to(device)
        self.ids = {split: [self._ids(text) for text in texts.splits[split][0]] for split in ("train", "val")}
        r = recipe
        self._optimizer = torch.optim.AdamW(self.model.parameters(), r.lr, r.betas, r.eps, r.weight_decay)
        self._shuffle = torch.Generator().manual_seed(r.seed)
        fingerprint = fingerprint_of(
            recipe=asdict(r),
            weights=self.before,
            utterances=[self.ids, [texts.splits[split][1].tolist() for split in self.ids]],
            device=device.type,
        )
        parts = TrainedParts(self.model, self._optimizer, self._shuffle)
        self.epochs = Epochs(folder, fingerprint, parts, notify)

    @property
    def best(self) -> dict[str, object]:
        """The line of the best epoch so far."""
        return self.epochs.best(f"val_{self.recipe.select}")

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, truncation=True, max_length=self.max_tokens)["input_ids"]

    def summary(self) -> list[str]:
        """Data, model and hyperparameters in two lines, for the user."""
        r, n = self.recipe, {split: len(ids) for split, ids in self.ids.items()}
        validation = (
            f"; no validation split, so {counted(len(self.texts.held_out), 'training dialogue')} held out (seed "
            f"{VALIDATION_SEED}, as `train` does)"
            if self.texts.held_out
            else ""
        )
        return [
            f"{self.texts.corpus}: {n['train']} training and {counted(n['val'], 'validation utterance')}, "
            f"{counted(len(self.texts.labels), 'label')}{validation}",
            f"{self.source} on {self.device}: {counted(r.epochs, 'epoch')}, batch {r.batch}, lr {r.lr:g}, "
            f"dropout {r.dropout:g}, seed {r.seed}",
        ]

    def train(self, log_json: bool, stop: threading.Event) -> None:
        """Trains the remaining epochs, until `stop` is set; keeps the model that is best on the validation split."""
        r = self.recipe
        labels, ids = self.texts.splits["train"][1], self.ids["train"]
        updates = -(-len(ids) // r.batch)  # per epoch
        with Stages(log_json) as stages:
            bar = stages.stage("fine-tune", r.epochs * updates)
            bar.resume(self.epochs.epoch * updates)
            for epoch in range(self.epochs.epoch + 1, r.epochs + 1):
                self.model.train()
                total, unread = 0.0, []
                order = torch.randperm(len(ids), generator=self._shuffle)
                for update, batch in enumerate(order.split(r.batch), (epoch - 1) * updates):
                    self._optimizer.zero_grad(set_to_none=True)
                    losses = []
                    for micro_batch in batch.split(r.micro_batch):
                        loss = self._loss(self._logits([ids[i] for i in micro_batch]), labels[micro_batch])
                        (loss / len(batch)).backward()
                        losses.append(loss.detach())
                    # An update late, when the device has probably computed them, so that it never runs out of work.
                    total, unread = self._add(total, unread, epoch), losses
                    factor = fairseq_linear_factor(update, r.epochs * updates, r.warm_up)
                    for group in self._optimizer.param_groups:
                        group["lr"] = r.lr * factor
                    self._optimizer.step()
                    bar.advance(1, f"epoch {epoch}, loss {total / len(ids):.3f} so far")
                    if stop.is_set():
                        return
                self._finish_epoch(epoch, self._add(total, unread, epoch) / len(ids))

    def _add(self, total: float, losses: list[torch.Tensor], epoch: int) -> float:
        """The total with some losses added in their order."""
        for loss in losses:
            total += loss.item()
        if not np.isfinite(total):
            raise UserError(f"the loss is not finite in epoch {epoch}; choose a lower --lr than {self.recipe.lr:g}")
        return total

    def _finish_epoch(self, epoch: int, train_loss: float) -> None:
        """Evaluates the validation split, records the metrics, and saves the model if it is the best so far."""
        line, key = {"epoch": epoch, "train_loss": train_loss, **self.validate()}, f"val_{self.recipe.select}"
        better = epoch == 1 or line[key] > self.best[key]
        self.notify(
            f"  epoch {epoch}: loss {train_loss:.4f}, validation loss {line['val_loss']:.4f}, accuracy "
            f"{line['val_accuracy']:.4f}, weighted F1 {line['val_weighted_f1']:.4f}{' (best)' if better else ''}"
        )
        if better:
            self.model.save_pretrained(self.folder)
            self.tokenizer.save_pretrained(self.folder)
        self.epochs.done(line)

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Loss, accuracy and weighted F1 on the validation split."""
        from sklearn.metrics import f1_score

        self.model.eval()
        labels, ids = self.texts.splits["val"][1], self.ids["val"]
        logits = torch.cat(
            [self._logits(ids[i : i + self.recipe.batch]).cpu() for i in range(0, len(ids), self.recipe.batch)]
        )
        predicted = logits.argmax(1)
        return {
            "val_loss": float(torch.nn.functional.cross_entropy(logits, labels)),
            "val_accuracy": float((predicted == labels).double().mean()),
            "val_weighted_f1": float(f1_score(labels.numpy(), predicted.numpy(), average="weighted", zero_division=0)),
        }

    def _logits(self, ids: Sequence[list[int]]) -> torch.Tensor:
        """(batch, labels) of token ids."""
        padded = self.tokenizer.pad({"input_ids": list(ids)}, return_tensors="pt")
        return self.model(**{name: to_device(x, self.device) for name, x in padded.items()}).logits

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits, to_device(labels, self.device), reduction="sum")

    def record(self) -> dict[str, object]:
        """The content of finetune.yaml."""
        config = self.model.config
        return {
            "model": self.source,
            "weights_sha256": self.before,
            "corpus": self.texts.corpus,
            "labels": self.texts.labels,
            "utterances": {split: len(ids) for split, ids in self.ids.items()},
            "held_out": self.texts.held_out,
            "recipe": {**asdict(self.recipe), "betas": list(self.recipe.betas)},
            "optimizer": "AdamW, no clipping of gradients; linear warm-up and decay to 0",
            "dropout_set": {
                name: getattr(config, name) for name in _DROPOUT + _ATTENTION_DROPOUT if hasattr(config, name)
            },
            "max_tokens": self.max_tokens,
            "selected": self.best,
            "device": self.device.type,
            "versions": {"torch": str(torch.__version__), "transformers": version("transformers")},
        }
