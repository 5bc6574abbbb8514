"""Small helpers for the English of messages."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence

_LISTED = 16  # names that a message lists when none is close


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun in the right number: "1 dialogue", "2 dialogues", "0 dialogues".

    Args:
        count: how many.
        noun: the singular.
        plural: the plural if it is not the singular with an "s", e.g. "indices".
    """
    return f"{count} {noun if count == 1 else plural or f'{noun}s'}"


def layers_in_words(layers: int, width: int) -> str:
    """A row that has an encoder's layers side by side: "13 layers of 768" for `layers` 13 and a `width` of 9984."""
    return f"{counted(layers, 'layer')} of {width // layers}"


def shorten(text: str, at_most: int) -> str:
    """A text of at most `at_most` characters on one line.

    A longer one loses its middle: of an error message the beginning names the file and the end says the reason.
    """
    text = " ".join(text.split())
    if len(text) <= at_most:
        return text
    end = (at_most - 3) // 2
    return f"{text[: at_most - 3 - end].rstrip()} … {text[len(text) - end :].lstrip()}"


def did_you_mean(
    name: str, known: Sequence[str], *, most: int = 3, cutoff: float = 0.6, listed: int | None = _LISTED
) -> str:
    """The end of a message about an unknown name: the closest known names, or all of them if they are few.

    Args:
        name, known: the unknown name, and the known ones.
        most: number of suggestions.
        cutoff: how alike they must be, 0 to 1.
        listed: how many known names are few; None for any number.
    """
    close = difflib.get_close_matches(name, known, n=most, cutoff=cutoff)
    if close:
        return f"; did you mean {' or '.join(repr(one) for one in close)}?"
    return f"; choose from {', '.join(known)}" if listed is None or len(known) <= listed else ""


def main_reason(reasons: Sequence[str]) -> str:
    """The most frequent one of some reasons, which are not empty: "no face", "no face in 3 of 4"."""
    reason, count = Counter(reasons).most_common(1)[0]
    return reason if count == len(reasons) else f"{reason} in {count} of {len(reasons)}"
