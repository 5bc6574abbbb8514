"""Names that differ in case only are one: labels and splits, as several annotators and programs write them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from ..words import counted


class SameNames:
    """Names, found also if they are written in another case, with blanks around them or in another Unicode form.

    Args:
        names: in the spelling to use.

    Attributes:
        names: as given.
        twice: pairs of them that are the same name, in order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._exact = {name: name for name in names}
        self._spelling: dict[str, str] = {}
        self.twice: list[str] = []
        for name in names:
            if (first := self._spelling.setdefault(_key(name), name)) is not name:
                self.twice += [first, name]
        self._found: Counter[tuple[str, str]] = Counter()

    @classmethod
    def most_frequent(cls, names: Iterable[str]) -> SameNames:
        """The names that occur, each in its most frequent spelling, or in the first one if several are."""
        best: dict[str, str] = {}
        for name, _ in Counter(names).most_common():
            best.setdefault(_key(name), name)
        return cls(sorted(best.values()))

    def find(self, name: str) -> str | None:
        """The spelling to use, or None if there is no such name. Other spellings are counted for `notes`."""
        if (same := self._exact.get(name)) is not None:
            return same  # the object that was given, so that a corpus's labels are in memory once
        spelling = self._spelling.get(_key(name))
        if spelling is not None:
            self._found[name, spelling] += 1
        return spelling

    def notes(self, what: str) -> list[str]:
        """A line for each spelling that was read as another one.

        Args:
            what: "label" or the like.
        """
        return [
            f"{counted(count, what)} {name!r} read as {spelling!r}, which differs in case only"
            for (name, spelling), count in sorted(self._found.items())
        ]


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", " ".join(name.split())).casefold()
