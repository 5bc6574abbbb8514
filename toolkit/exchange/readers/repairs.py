"""Repairs the texts and names of a converted file, in one place for all layouts, and says what was repaired."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterable

from ...base.reading.foreign_text import TextRepair, repaired
from ..pack import Pack


def stored_text(text: str) -> str:
    """A string made storable: an unpaired surrogate has no UTF-8 encoding, and a NUL ends a string in HDF5."""
    return str(text).encode("utf-8", "replace").decode("utf-8").replace("\0", "\ufffd")


def repair_texts(pack: Pack) -> None:
    """Replaces the pack's texts, ids, speakers and labels by repaired ones that a store can contain.

    A name is an identity: it is the same text in all places. Names that would become equal are kept apart.
    """
    us = pack.utterances
    texts = TextRepair()
    names = {"speakers": TextRepair(), "dialogues": TextRepair(), "utterance ids": TextRepair(), "labels": TextRepair()}
    texts.learn(u.text for u in us)
    for repair in names.values():
        repair.latin1 = texts.latin1
    speakers = _renamed((u.speaker for u in us), names["speakers"])
    dialogues = _renamed((u.dialogue for u in us), names["dialogues"], pack.problems, "dialogue")
    ids = _renamed((u.id for u in us), names["utterance ids"], pack.problems, "utterance id")
    labels = _renamed(pack.labels, names["labels"], pack.problems, "label")
    pack.utterances = [
        dataclasses.replace(
            u,
            id=ids[u.id],
            dialogue=dialogues[u.dialogue],
            speaker=speakers[u.speaker],
            text=stored_text(texts.repair(u.text)),
            label=None if u.label is None else labels[u.label],
        )
        for u in us
    ]
    pack.labels = [labels[label] for label in pack.labels]
    pack.corpus = stored_text(repaired(pack.corpus))
    if isinstance(orders := pack.attrs.get("split_order"), dict):
        pack.attrs["split_order"] = {split: [dialogues[name] for name in order] for split, order in orders.items()}
    pack.problems = [stored_text(repaired(line)) for line in pack.problems]
    pack.problems += texts.notes("texts")
    for what, repair in names.items():
        pack.problems += repair.notes(what)


def _renamed(
    names: Iterable[str], repair: TextRepair, problems: list[str] | None = None, what: str = ""
) -> dict[str, str]:
    """The repaired form of each name. With `problems`, different names stay different: the later one gets a number."""
    made: dict[str, str] = {}
    taken: dict[Hashable, str] = {}
    for name in dict.fromkeys(names):
        new = wanted = stored_text(repair.repair(name))
        if problems is not None:
            for again in range(2, 2**31):
                if new not in taken:
                    break
                new = f"{wanted}#{again}"
            taken[new] = name
            if new != wanted:
                problems.append(f"{new}: the {what} {name!a} is the same as another one after its repair; renamed")
        made[name] = new
    return made
