"""Small helpers for messages."""

from __future__ import annotations


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """A count and its noun: "1 dialogue", "2 dialogues", "2 entries" with `plural="entries"`."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"
