"""Texts and times as SubRip and WebVTT write them."""

from __future__ import annotations


def cue_line(text: str) -> str:
    """A text in one line: a blank line would end a cue, and "-->" begin one."""
    return " ".join(text.split()).replace("-->", "→")


def cue_time(seconds: float, mark: str) -> str:
    """Hours, minutes, seconds, `mark`, and milliseconds: "00:01:02,345"."""
    ms = max(0, round(1000 * seconds))
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}{mark}{ms % 1000:03d}"
