from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from erc_toolkit.toolkit.base.words import counted, shorten


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


@given(st.text(max_size=80), st.integers(12, 60))
def test_a_shortened_text_keeps_both_ends(text, at_most):
    whole, got = " ".join(text.split()), shorten(text, at_most)
    assert len(got) <= at_most and "\n" not in got
    if len(whole) <= at_most:
        assert got == whole
    else:
        first, last = got.split(" … ") if got.count(" … ") == 1 else (got[:2].strip(), got[-2:].strip())
        assert whole.startswith(first) and whole.endswith(last)
