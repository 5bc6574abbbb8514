"""Fine-tuning of a speech model as a classifier of utterances, before its features are extracted.

The model hears one utterance; a linear head stands on the mean over its frames. Optimizer, schedule and selection are
those of the fine-tuning of text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ...toolkit.base.device import to_device
from ...toolkit.base.errors import UserError
from ...toolkit.base.progress import Stages
from ...toolkit.base.words import counted
from ..encoders.audio.heads import HEADS, Waves, load_classifier
from ..encoders.audio.waves import run
from ..encoders.weights import DTYPES, checksum
from .adapters import freeze_below, with_adapters
from .epochs import check_out
from .loop import ADAPTERS_LR, Learner, TuningRecipe, fine_tune
from .processes import Processes
from .recordings import read_clips
from .texts import held_out_in_words

_LR, _DROPOUT = 1e-5, 0.1
_DROPOUTS = ("hidden_dropout", "dropout")


@dataclass(frozen=True)
class SpeechRecipe(TuningRecipe):
    """Hyperparameters.

    Attributes:
        freeze_layers: the convolutions and the first layers that stay as they are; 0 for none.
        most_seconds: what is longer is cut, in training and when probabilities are extracted.
    """

    freeze_layers: int = 0
    most_seconds: float = 30.0

    LATER: ClassVar[tuple[str, ...]] = ()

    def complete(self) -> SpeechRecipe:
        """This recipe with nothing left open; adapters learn at `ADAPTERS_LR`."""
        lr = self.lr if self.lr is not None else ADAPTERS_LR if self.lora else _LR
        return replace(self, lr=lr, dropout=_DROPOUT if self.dropout is None else self.dropout)


def finetune_speech(
    source: Path,
    audio_model: str,
    out: Path,
    recipe: SpeechRecipe = SpeechRecipe(),
    device: str = "auto",
    notify: Callable[[str], None] = print,
    log_json: bool = False,
    overwrite: bool = False,
    workers: int = 0,
) -> dict[str, object]:
    """Trains a speech model on a corpus's training split and writes the epoch that is best on its validation split.

    Args:
        source: manifest.
        audio_model: hub name or folder of a model of transformers that has a classifier.
        out: output folder, which `--audio-model` accepts: model, preprocessor, metrics.jsonl with a line for each
            epoch, and finetune.yaml, the record of the training.
        recipe: the hyperparameters.
        device: auto, cpu, cuda, cuda:N or mps.
        notify: called with a line for each epoch.
        log_json: write progress as JSON lines.
        overwrite: replace an earlier training in `out`; other files there are kept.
        workers: number of processes that decode; 0 for one per core.

    Returns:
        The line of metrics.jsonl of the selected epoch.

    Raises:
        UserError: `out` is not empty, choices that do not go together, audio or model cannot be loaded, a loss that is
            not finite, too little memory, unfinished work with other options, or an interruption. The state is kept in
            OUT.partial after each epoch, and the same call resumes from there with the same result.
    """
    inputs = [source, Path(audio_model)]
    check_out(out, inputs, overwrite)
    recipe.check()
    if recipe.lora and recipe.freeze_layers:
        raise UserError("--freeze-layers: with --lora all layers are frozen already; leave one of the two out")
    recipe = recipe.complete()

    def make(processes: Processes, folder: Path) -> Learner:
        return _Speech(source, audio_model, recipe, processes, out, workers, log_json)

    return fine_tune("finetune-speech", inputs, out, recipe, device, make, notify, log_json, overwrite)


class _Speech(Learner):
    """A classification head on a speech model, and the clips that it learns from."""

    def __init__(
        self,
        source: Path,
        audio_model: str,
        recipe: SpeechRecipe,
        processes: Processes,
        out: Path,
        workers: int,
        log_json: bool,
    ) -> None:
        from ...toolkit.manifest import load_manifest

        self.recipe, self.device = recipe, processes.device
        self.source = Path(audio_model).name if Path(audio_model).is_dir() else audio_model
        # Without adapters `precision` is that of the products alone.
        self.dtype = DTYPES[recipe.precision] if recipe.lora else torch.float32
        labels = load_manifest(source).labels
        settings = dict.fromkeys(_DROPOUTS, recipe.dropout) | {"attention_dropout": recipe.attention_dropout}
        plain, prepare = load_classifier(
            audio_model,
            self.dtype,
            False,
            # Masking of frames draws from NumPy's generator, and fails on clips that are shorter than a mask.
            {**settings, "apply_spec_augment": False},
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: i for i, label in enumerate(labels)},
        )
        config = plain.config
        self.dropout_set = {name: getattr(config, name) for name in settings if hasattr(config, name)}
        self.waves = Waves(prepare, config)
        self.before = checksum({k: v for k, v in plain.state_dict().items() if not k.startswith(HEADS)})
        plain.to(self.device)
        self.frozen = freeze_below(plain, recipe.freeze_layers, HEADS)
        self.model = with_adapters(plain, recipe.lora, None, HEADS) if recipe.lora else plain
        with Stages(log_json) as progress:
            # The samples are next to the output, where there is room for what is large.
            self.clips = read_clips(
                source, self.waves.rate, recipe.most_seconds, out.absolute().parent, progress, workers
            )
        self.labels = {split: torch.from_numpy(own) for split, own in self.clips.splits.items()}
        self.fingerprint = {"weights": self.before, "clips": self.clips.sha256, "labels": self.clips.labels}

    def loss(self, rows: torch.Tensor) -> torch.Tensor:
        logits = self._logits([self.clips.samples("train", int(i)) for i in rows])
        labels = to_device(self.labels["train"][rows], logits.device)
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")

    def scores(self, rows: range) -> torch.Tensor:
        found = []
        for start in range(rows.start, rows.stop, self.recipe.micro_batch):  # clips are long: not a whole batch at once
            stop = min(start + self.recipe.micro_batch, rows.stop)
            found.append(self._logits([self.clips.samples("val", i) for i in range(start, stop)]).float())
        return torch.cat(found)

    def _logits(self, waves: Sequence[np.ndarray]) -> torch.Tensor:
        """(clips, labels)."""
        groups = [waves] if self.waves.together else [[wave] for wave in waves]
        return torch.cat([self._of_group(group) for group in groups])

    def _of_group(self, waves: Sequence[np.ndarray]) -> torch.Tensor:
        inputs = {name: to_device(x, self.device) for name, x in self.waves.inputs(waves).items()}
        return run(self.model, inputs, self.dtype).logits

    def save(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder)
        self.waves.prepare.save_pretrained(folder)

    def summary(self) -> list[str]:
        r, clips = self.recipe, self.clips
        more = f", adapters of rank {r.lora}" if r.lora else ""
        more += f", {counted(r.freeze_layers, 'layer')} frozen" if r.freeze_layers else ""
        more += f", {r.precision}" if r.precision != "float32" else ""
        return [
            f"{clips.corpus}: {len(clips.splits['train'])} training and "
            f"{counted(len(clips.splits['val']), 'validation utterance')}, {counted(len(clips.labels), 'label')}"
            f"{held_out_in_words(clips.held_out)}",
            *(f"left out: {counted(count, 'utterance')}, {reason}" for reason, count in clips.skipped.items()),
            *([f"{counted(clips.cut, 'utterance')} cut to {r.most_seconds:g} s"] if clips.cut else []),
            f"{self.source} on {self.device}: {counted(r.epochs, 'epoch')}, batch {r.batch}, lr {r.lr:g}, dropout "
            f"{r.dropout:g}, seed {r.seed}{more}",
        ]

    def record(self) -> dict[str, object]:
        clips = self.clips
        return {
            "model": self.source,
            "weights_sha256": self.before,
            "objective": "classes",
            "corpus": clips.corpus,
            "labels": clips.labels,
            "utterances": {split: len(own) for split, own in clips.splits.items()},
            "held_out": clips.held_out,
            "skipped": clips.skipped,
            "most_seconds": self.recipe.most_seconds,
            "sample_rate_hz": self.waves.rate,
            "dropout_set": self.dropout_set,
            "frozen_parameters": len(self.frozen),
            "masking": "no SpecAugment",
        }
