"""JSON from users: values that Python, HDF5 and UTF-8 can represent, or one line that names the field."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..words import counted

MOST_DEPTH = 100
MOST_DIGITS = 300  # more do not fit into a float, and Python refuses to print integers of several thousand
_UNPAIRED = re.compile("[\ud800-\udfff]")
_MOST_BITS = 1000
_SHOWN, _SHOWN_PATH = 40, 120


class _TooLarge(str):
    """A number as it is written in the file."""


def parse_json(text: str | bytes) -> Any:
    """Parses JSON.

    Raises:
        ValueError: it is not JSON, has a key twice, is nested more than 100 deep, has a number too large for a float,
            or a NUL character or an unpaired surrogate in a string. The message is one line, and names the field where
            there is one, such as "field extra.votes[2]: …".
    """
    if isinstance(text, str) and (plain := _parse_plain(text)) is not None:
        return plain
    try:
        value = json.loads(text, parse_int=_whole, parse_float=_float, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError(f"not JSON that can be read (nested more than {MOST_DEPTH} deep)") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error})") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not JSON ({error.reason})") from None
    if problem := value_problem(value):
        raise ValueError(problem)
    return value


def _parse_plain(text: str) -> Any:
    """The value of a text of which a glance shows that nothing is wrong in it; None if it has to be looked at.

    Almost every line of a corpus is one, and takes a fifth of the time.
    """
    if "\\u" in text or not (text.isascii() or _UNPAIRED.search(text) is None):
        return None  # a string may be none that can be stored; JSON itself forbids a NUL that is not escaped
    if text.count("[") + text.count("{") > MOST_DEPTH:
        return None
    try:
        value, end = _PLAIN.raw_decode(text)
    except (ValueError, RecursionError):
        return None
    return None if text[end:].strip(" \t\r\n") else value


def value_problem(value: object, name: str = "") -> str:
    """What keeps a value (of JSON, or of a program) from being written as JSON in UTF-8 and read again, or "".

    Args:
        value: lists, dicts, strings, numbers; other objects are not looked at.
        name: the field that has it, for the answer: "field NAME.key[3]: contains a NUL character".
    """
    if not any(_problem(one, depth) for one, depth in _values(value)):
        return ""
    for where, one, depth in _walk(value, name):
        if problem := _problem(one, depth):
            shown = where if len(where) <= _SHOWN_PATH else f"{where[:_SHOWN_PATH]}…"
            return f"field {shown}: {problem}" if where else problem
    return ""


def _values(value: object) -> Iterator[tuple[object, int]]:
    """(value, depth) of all values in a value; most are an object of texts and numbers, and need no walk."""
    if type(value) is dict:
        inside = [*value, *value.values()]
        if not any(isinstance(one, (dict, list, tuple)) for one in inside):
            return ((one, 1) for one in inside)
    return ((one, depth) for _, one, depth in _walk(value, "", named=False))


def _problem(one: object, depth: int) -> str:
    if isinstance(one, str) and not isinstance(one, _TooLarge):
        return text_problem(one)
    if depth > MOST_DEPTH:
        return f"is nested more than {MOST_DEPTH} deep"
    if isinstance(one, _TooLarge):
        return f"the number {one[:12]}{'…' if len(one) > 12 else ''} of {counted(len(one), 'character')} is too large"
    if isinstance(one, int) and not isinstance(one, bool) and one.bit_length() > _MOST_BITS:
        return f"a number of about {round(one.bit_length() * math.log10(2))} digits is too large"
    return ""


def text_problem(text: str) -> str:
    """What keeps a text from being stored, or ""."""
    if "\0" in text:
        return "contains a NUL character"
    if not text.isascii() and _UNPAIRED.search(text):
        return "contains an unpaired surrogate"
    return ""


def _walk(value: object, name: str, named: bool = True) -> Iterator[tuple[str, object, int]]:
    """(path, value, depth) of a value and all values in it, without recursion; keys count as values.

    Paths are made only if `named`, since they take longer than the rest.
    """
    todo: list[tuple[str, object, int]] = [(name, value, 0)]
    seen: set[int] = set()
    while todo:
        where, one, depth = todo.pop()
        if isinstance(one, (dict, list, tuple)):
            if id(one) in seen:  # YAML's aliases: the same object in several places, or within itself
                continue
            seen.add(id(one))
        yield where, one, depth
        if depth > MOST_DEPTH:
            continue
        if not named and isinstance(one, (dict, list, tuple)):
            inside = [*one.keys(), *one.values()] if isinstance(one, dict) else one
            todo += [("", below, depth + 1) for below in inside]
        elif isinstance(one, dict):
            for key, below in one.items():
                shown = ascii(key)[1:-1][:_SHOWN] if isinstance(key, str) else str(type(key))
                inside = f"{where}.{shown}" if where else shown
                todo += [(inside, below, depth + 1), (inside, key, 0)]
        elif isinstance(one, (list, tuple)):
            todo += [(f"{where}[{i}]", below, depth + 1) for i, below in enumerate(one)]


def _whole(text: str) -> int | _TooLarge:
    return int(text) if len(text) <= MOST_DIGITS else _TooLarge(text)


def _float(text: str) -> float | _TooLarge:
    number = float(text)
    return number if math.isfinite(number) else _TooLarge(text)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"field {ascii(key)[1:-1][:_SHOWN]}: occurs twice in one object")
            seen.add(key)
    return found


def _plain_whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(text)
    return int(text)


def _plain_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


_PLAIN = json.JSONDecoder(parse_int=_plain_whole, parse_float=_plain_float, object_pairs_hook=_object)


def header_format(path: Path) -> object:
    """The `format` of the JSON object in the first line of a file; None if there is none."""
    try:
        with open(path, encoding="utf-8") as file:
            header = parse_json(file.readline(1 << 16))
    except (OSError, ValueError):
        return None
    return header.get("format") if isinstance(header, dict) else None
