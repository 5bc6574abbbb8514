"""The labelled texts of a corpus that a text model is fine-tuned on, with the turns before each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from ...toolkit.base.errors import UserError
from ...toolkit.base.holding_out import VALIDATION_SEED, held_out
from ...toolkit.base.words import counted
from ...toolkit.manifest import SPLITS, load_manifest
from ...toolkit.store import FeatureStore
from ..encoders.base import Turn
from ..run.context import preceding, unmasked


@dataclass(frozen=True)
class Texts:
    """The labelled utterances of a corpus: for each split N texts and int64 (N,) indices into `labels`.

    `held_out` names the training dialogues that validate, if the corpus has no validation split. `turns` has, for each
    split, the same N texts with speaker and context.
    """

    corpus: str
    labels: list[str]
    splits: dict[str, tuple[list[str], torch.Tensor]]
    held_out: list[str] = field(default_factory=list)
    turns: dict[str, list[Turn]] = field(default_factory=dict)


class _Row(NamedTuple):
    """An utterance of either source; label -1 for none, or if a manifest masks its text, which then is empty."""

    split: str
    label: int
    text: str
    dialogue: str
    speaker: str


def read_texts(path: Path, context: int = 0) -> Texts:
    """Labelled, non-empty texts of a manifest or a feature store.

    Without a validation split, training dialogues are held out for it as `erc-toolkit train` does: the same ones, where
    each has a text.

    Args:
        path: of the manifest or the store.
        context: number of utterances of the dialogue before each of which the non-empty ones are its context, labelled
            or not.

    Raises:
        UserError: the file is neither, or it has no such texts to train on and to validate with.
    """
    corpus, labels, rows = _rows(path)
    befores = [preceding(rows, i, context, lambda one: one.text) for i in range(len(rows))]
    turns = [Turn(row.text, row.speaker, before) for row, before in zip(rows, befores, strict=True)]
    usable = [(row.split, i) for i, row in enumerate(rows) if row.label >= 0 and row.text.strip()]
    held: list[str] = []
    if not any(split == "val" for split, _ in usable):
        # The dialogues that `train` chooses from: those with a label, whether or not it has a text.
        dialogues = list(dict.fromkeys(row.dialogue for row in rows if row.split == "train" and row.label >= 0))
        held = hold_out(path, dialogues)
        usable = [("val" if split == "train" and rows[i].dialogue in held else split, i) for split, i in usable]
    splits, own_turns = {}, {}
    for split in SPLITS:
        own = [i for its, i in usable if its == split]
        splits[split] = [rows[i].text for i in own], torch.tensor([rows[i].label for i in own], dtype=torch.int64)
        own_turns[split] = [turns[i] for i in own]
        if split != "test" and not own:
            raise UserError(
                f"{path}: the split {split!r} has no utterance with label and text; fine-tuning needs train and val"
            )
    if len(splits["train"][1].unique()) < 2:
        raise UserError(f"{path}: all training utterances have the same label; at least two labels are needed")
    return Texts(corpus, labels, splits, held, own_turns)


def hold_out(path: Path, dialogues: list[str]) -> list[str]:
    """Those of the labelled training dialogues that validate in a corpus without a validation split.

    Raises:
        UserError: there are fewer than two.
    """
    if len(dialogues) < 2:
        raise UserError(
            f"{path}: has no validation split, and fewer than two labelled training dialogues to hold one out of"
        )
    return [dialogues[i] for i in held_out(len(dialogues))]


def held_out_in_words(dialogues: Sequence[str]) -> str:
    """The end of a line about a corpus: that dialogues were held out, or nothing if none were."""
    if not dialogues:
        return ""
    held = counted(len(dialogues), "training dialogue")
    return f"; no validation split, so {held} held out (seed {VALIDATION_SEED}, as `train` does)"


def _rows(path: Path) -> tuple[str, list[str], list[_Row]]:
    """Name of the corpus, its labels, and its utterances in dialogue order."""
    import h5py

    if path.is_file() and h5py.is_hdf5(path):
        with FeatureStore.open(path) as store:
            names = [store.dialogue_ids[number] for number in store.column("dialogue").tolist()]
            speakers = [store.speaker_names[number] for number in store.column("speaker").tolist()]
            columns = store.column("split"), store.column("label").tolist(), store.column("text")
            rows = [_Row(*values) for values in zip(*columns, names, speakers, strict=True)]
            return store.corpus, list(store.labels), rows
    manifest = load_manifest(path)
    rows = [
        _Row(
            u.split,
            -1 if u.label is None or "text" in u.mask else manifest.labels.index(u.label),
            unmasked(u),
            u.dialogue,
            u.speaker,
        )
        for u in manifest.utterances
    ]
    return manifest.corpus, manifest.labels, rows
