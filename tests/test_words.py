from __future__ import annotations

import pytest

from erc_toolkit.toolkit.base.words import counted


@pytest.mark.parametrize(
    ("count", "words", "expected"),
    [
        (1, ("dialogue",), "1 dialogue"),
        (2, ("dialogue",), "2 dialogues"),
        (0, ("dialogue",), "0 dialogues"),
        (1, ("frame index", "frame indices"), "1 frame index"),
        (3, ("frame index", "frame indices"), "3 frame indices"),
    ],
)
def test_a_count_is_followed_by_the_noun_in_the_right_number(count, words, expected):
    assert counted(count, *words) == expected
