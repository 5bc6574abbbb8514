"""The speakers of a recording or another store, given to the speakers that a trained model has learned.

A graph asks only who is the same person. Learned parameters belong to a speaker index, a slot: in each dialogue, people
get the slot that the user chose for them, or that of their name, or the free ones in order of appearance. Whoever is
left gets the mean of the parameters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...toolkit.base.errors import UserError
from ...toolkit.base.words import counted
from ...toolkit.store import FeatureStore
from .features import Speakers

CHOSEN, NAMED, ORDER, BEYOND = "--speaker", "its name", "order of appearance", "beyond the model's speakers"
_SHOWN = 6


class LearnedSpeakers(NamedTuple):
    """What a trained model has learned about speakers.

    Attributes:
        use: `erc_toolkit.train.models.base.Model.speaker_use`.
        names: name of every slot: a speaker's of the training store, or a number, from 1.
        by_name: whether they are speakers of the training store.
    """

    use: str
    names: list[str]
    by_name: bool

    @property
    def any(self) -> bool:
        """Whether it has learned anything about speakers, rather than only asking who is the same, or not even that."""
        return self.use in ("embedding", "index")

    @classmethod
    def of(cls, use: str, facts: Mapping[str, Any]) -> LearnedSpeakers:
        """Of a model and the section `speakers` of its run's facts."""
        known = list(facts["names"])
        return cls(use, [*known, *(str(i + 1) for i in range(len(known), facts["slots"]))], bool(known))

    def describe(self) -> str:
        """What the model expects, as a sentence of a model card."""
        if self.use == "none":
            return "Speakers are not used."
        if self.use == "identity":
            return "Any number of speakers with any names: the model asks only which turns are the same person's."
        has = f"{counted(len(self.names), 'speaker')} of its corpus ({_some(self.names)})" if self.by_name else ""
        has = has or f"the first {counted(len(self.names), 'speaker')} of a dialogue"
        rule = (
            "whoever else speaks gets the mean of what it has learned about them"
            if self.use == "embedding"
            else "more speakers in a dialogue are refused"
        )
        return (
            f"The model has learned something about {has}. People of other names take these places in the order in "
            f"which they first speak, or as --speaker NAME={self.names[0]} says; {rule}."
        )


@dataclass(frozen=True, slots=True)
class GivenSpeakers:
    """The speakers of a store as a model takes them.

    Attributes:
        speakers: indices and people of every utterance; index -1 is the mean.
        learned: the argument of `give_speakers`.
        why: for each dialogue, name of each of its speakers to (index, one of CHOSEN, NAMED, ORDER, BEYOND).
    """

    speakers: Speakers
    learned: LearnedSpeakers
    why: list[dict[str, tuple[int, str]]]

    def facts(self) -> dict[str, object]:
        """For turns.json: `use`, and for each speaker of the first dialogue what it is taken `as`, and `why`."""
        found: dict[str, object] = {"use": self.learned.use}
        if self.learned.any:
            found["learned"] = self.learned.names
            found["given"] = {name: {"as": self._as(i), "why": why} for name, (i, why) in self.why[0].items()}
        return found

    def line(self) -> str:
        """Who is taken for whom in the first dialogue; empty if the model has learned nothing about speakers."""
        if not self.learned.any:
            return ""
        people = [f"{name} as {self._as(i)} ({why})" for name, (i, why) in self.why[0].items()]
        more = f", … and {len(people) - _SHOWN} more" if len(people) > _SHOWN else ""
        return f"{', '.join(people[:_SHOWN])}{more}"

    def note(self) -> str:
        """What differs from training in a store; empty if nothing does."""
        if not self.learned.any:
            return ""
        usual = (CHOSEN, NAMED) if self.learned.by_name else (CHOSEN, ORDER)
        new = Counter(why for dialogue in self.why for _, why in dialogue.values() if why not in usual)
        if not new:
            return ""
        people = sum(len(dialogue) for dialogue in self.why)
        parts = []
        if new[ORDER]:
            parts.append(f"{new[ORDER]} take the model's free speakers in order of appearance")
        if new[BEYOND]:
            turns = int((self.speakers.index < 0).sum())
            parts.append(f"{new[BEYOND]} ({counted(turns, 'utterance')}) the mean of what it learned about speakers")
        here = f"of {counted(people, 'speaker')} in {counted(len(self.why), 'dialogue')}"
        return f"note: {here}, {' and '.join(parts)}: it knows {counted(len(self.learned.names), 'speaker')}"

    def _as(self, index: int) -> str:
        return "the mean" if index < 0 else self.learned.names[index]


def give_speakers(
    names: Sequence[str],
    offsets: Sequence[int] | np.ndarray,
    learned: LearnedSpeakers,
    where: str,
    chosen: Mapping[str, str] | None = None,
) -> GivenSpeakers:
    """Gives the speakers of dialogues to those that a model has learned.

    Args:
        names: (N,) speaker of every utterance.
        offsets: (D + 1,), rows of dialogue d are offsets[d]:offsets[d + 1].
        learned: what the model has learned.
        where: the file that they are from, for messages.
        chosen: speaker to a name in `learned.names`, by the user.

    Raises:
        UserError: a choice names somebody who is not there, or whom the model does not know; or there are more speakers
            than the model can take.
    """
    place = {name: i for i, name in enumerate(learned.names)}
    chosen = chosen or {}
    _check(chosen, names, learned, where)
    index, people = np.empty(len(names), np.int64), np.empty(len(names), np.int64)
    found = []
    for start, end in zip(offsets[:-1], offsets[1:], strict=True):
        here = dict.fromkeys(names[start:end])  # in order of appearance
        given = {name: (place[chosen[name]], CHOSEN) for name in here if name in chosen}
        if learned.by_name:
            given |= {name: (place[name], NAMED) for name in here if name in place and name not in given}
        taken = {i for i, _ in given.values()}
        free = iter([i for i in range(len(place)) if i not in taken])
        for name in here:
            if name not in given:
                i = next(free, -1)
                given[name] = (i, BEYOND if i < 0 else ORDER)
        beyond = [name for name in here if given[name][0] < 0]
        if beyond and learned.use == "index":
            raise UserError(
                f"{where}: {len(here)} speakers in one dialogue, but the model has parameters for "
                f"{counted(len(place), 'speaker')} and no rule for {beyond[0]!r}; train a model with "
                f"--set data.speakers=dialogue --set data.speaker_slots={len(here)}"
            )
        number, next_number = {}, len(place)
        for name in here:
            i = given[name][0]
            # The slot's number where it is one person's, as in training; two people may have the same slot.
            if i < 0 or i in number.values():
                number[name], next_number = next_number, next_number + 1
            else:
                number[name] = i
        index[start:end] = [given[name][0] for name in names[start:end]]
        people[start:end] = [number[name] for name in names[start:end]]
        found.append({name: given[name] for name in here})
    known = learned.names if learned.by_name else []
    return GivenSpeakers(Speakers(index, len(place), known, people), learned, found)


def give_store_speakers(
    store: FeatureStore, learned: LearnedSpeakers, chosen: Mapping[str, str] | None = None
) -> GivenSpeakers:
    """`give_speakers` of every utterance of a store."""
    names = [store.speaker_names[i] for i in store.column("speaker")]
    return give_speakers(names, store.offsets, learned, str(store.path), chosen)


def _check(chosen: Mapping[str, str], names: Sequence[str], learned: LearnedSpeakers, where: str) -> None:
    if not chosen:
        return
    if not learned.any:
        what = "does not use speakers" if learned.use == "none" else "asks only who is the same person"
        raise UserError(f"--speaker: the model {what}; omit the option")
    here = dict.fromkeys(names)
    for name, learned_name in chosen.items():
        if name not in here:
            raise UserError(f"--speaker {name}={learned_name}: {where} has only {_some(list(here))}")
        if learned_name not in learned.names:
            raise UserError(f"--speaker {name}={learned_name}: the model knows only {_some(learned.names)}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", …" if len(names) > _SHOWN else "")
