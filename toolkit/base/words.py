"""Small helpers for the English of messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun in the right number: "1 dialogue", "2 dialogues", "0 dialogues".

    Args:
        count: how many.
        noun: the singular.
        plural: the plural if it is not the singular with an "s", e.g. "indices".
    """
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def main_reason(reasons: Sequence[str]) -> str:
    """The most frequent one of some reasons, which are not empty: "no face", "no face in 3 of 4"."""
    reason, count = Counter(reasons).most_common(1)[0]
    return reason if count == len(reasons) else f"{reason} in {count} of {len(reasons)}"
