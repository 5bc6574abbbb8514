"""A transcript in the characters of a CTC model, with a wildcard where it cannot spell what is said."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

STAR = -1  # stands for anything that is heard, or nothing
# What is in brackets may be a remark that nobody says.
_REMARK = re.compile(r"\[[^\]]*\]|\([^)]*\)|\*[^*]*\*|<[^>]*>")
_APOSTROPHES = str.maketrans({"’": "'", "‘": "'", "`": "'", "´": "'"})
_BREAKS = re.compile(r"[^\w']+|_")


def spell(text: str, vocabulary: Mapping[str, int], delimiter: int | None = None) -> list[int]:
    """The tokens of a text between two wildcards, since a clip may have speech of others before and after.

    Args:
        text: the transcript.
        vocabulary: single characters to their numbers.
        delimiter: number of the token between words; None for none.

    Returns:
        Numbers of characters, of the delimiter, and `STAR`; empty if no word can be spelled.
    """
    tokens = [STAR]
    spelled = False
    plain = _REMARK.sub(" \0 ", text.translate(_APOSTROPHES)).split("\0")
    for k, part in enumerate(plain):
        if k and tokens[-1] != STAR:
            tokens.append(STAR)
        for word in _BREAKS.sub(" ", part).split():
            word = word.strip("'")
            own = _characters(word, vocabulary)
            if not own:  # digits, another alphabet
                if word and tokens[-1] != STAR:
                    tokens.append(STAR)
                continue
            if delimiter is not None and tokens[-1] != STAR:
                tokens.append(delimiter)
            tokens += own
            spelled = True
    if not spelled:
        return []
    return tokens if tokens[-1] == STAR else [*tokens, STAR]


def _characters(word: str, vocabulary: Mapping[str, int]) -> list[int]:
    found = []
    for character in word:
        for form in (character, character.lower(), character.upper(), unicodedata.normalize("NFKD", character)[:1]):
            number = next((vocabulary[f] for f in (form, form.lower(), form.upper()) if f in vocabulary), None)
            if number is not None:
                found.append(number)
                break
        else:
            return []
    return found
