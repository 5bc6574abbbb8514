"""Small helpers for the English of messages."""

from __future__ import annotations


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun in the right number: "1 dialogue", "2 dialogues", "0 dialogues".

    Args:
        count: how many.
        noun: the singular.
        plural: the plural if it is not the singular with an "s", e.g. "indices".
    """
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"
