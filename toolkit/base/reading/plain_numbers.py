"""Numbers and times as people, spreadsheets and speech recognisers write them."""

from __future__ import annotations

import math
import re
from numbers import Real

MOST_SECONDS = 10_000_000  # 115 days, more than any recording; numbers of samples and of milliseconds stay exact
_LONGEST = 64  # characters of a number: a double has 17 digits
_NUMBER = re.compile(r"[+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_CLOCK = re.compile(r"(?:(\d{1,6}):)?(\d{1,6}):(\d{1,2})(?:[.,](\d+))?", re.ASCII)
_ISO = re.compile(r"PT(?:(\d+(?:\.\d+)?)H)?(?:(\d+(?:\.\d+)?)M)?(?:(\d+(?:\.\d+)?)S)?", re.ASCII)
_UNIT = re.compile(r"([-+\d.,eE]+) ?(ms|msec|s|sec|secs|seconds)", re.ASCII)


def parse_number(text: str) -> float | None:
    """A finite number, with a point or a comma before its decimals; None if the text is none.

    Unlike `float`, no names (nan, infinity), no underscores, and not more than 64 characters.
    """
    text = text.strip() if len(text) < 4 * _LONGEST else text
    if len(text) > _LONGEST or not _NUMBER.fullmatch(text):
        return None
    number = float(text.replace(",", "."))
    return number if math.isfinite(number) else None


def parse_whole(text: str) -> int | None:
    """A whole number of at most 18 digits, from 0; None if the text is none."""
    text = text.strip() if len(text) < 4 * _LONGEST else text
    return int(text) if len(text) <= 18 and text.isascii() and text.isdecimal() else None


def parse_clock(text: str) -> float | None:
    """Seconds of a time that says its unit: H:M:S, M:S, "1.5s", "1500 ms", or ISO 8601's PT1M2.5S; else None."""
    text = text.strip() if len(text) < 4 * _LONGEST else text
    if len(text) > _LONGEST:
        return None
    if match := _CLOCK.fullmatch(text):
        return int(match[1] or 0) * 3600 + int(match[2]) * 60 + float(f"{match[3]}.{match[4] or 0}")
    if match := _UNIT.fullmatch(text):
        number = parse_number(match[1])
        return None if number is None else number / 1000 if match[2].startswith("ms") else number
    if len(text) > 2 and (match := _ISO.fullmatch(text)):
        return float(match[1] or 0) * 3600 + float(match[2] or 0) * 60 + float(match[3] or 0)
    return None


def finite(value: object) -> float | None:
    """A number, or a text with one, as a finite float; None for anything else."""
    if isinstance(value, str):
        return parse_number(value)
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def finite_number(value: object) -> float | None:
    """A number as a finite float; None for anything else, also for a text with one."""
    return None if isinstance(value, str) else finite(value)


def shown(value: object, most: int = 40) -> str:
    """A value for a message: its representation, shortened, also if it is a number of thousands of digits."""
    try:
        text = repr(value if not isinstance(value, str) else value[: most + 1])
    except (ValueError, RecursionError):  # a number that Python refuses to print, or nested too deeply
        return f"a {type(value).__name__} that is too large"
    return text if len(text) <= most + 2 else f"{text[:most]}…"
