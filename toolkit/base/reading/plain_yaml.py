"""YAML from users: plain values, as in `plain_json`."""

from __future__ import annotations

import re
from typing import Any

import yaml

from ..words import shorten
from .plain_json import MOST_DEPTH, value_problem


def load_yaml(text: str) -> Any:
    """Parses YAML with plain values only.

    Raises:
        ValueError: it is not YAML, or has what `parse_json` refuses; the message is one line.
    """
    if _brackets(text) > MOST_DEPTH:  # PyYAML takes the square of the depth, seconds for a line of brackets
        raise ValueError(f"not valid YAML (nested more than {MOST_DEPTH} deep)")
    try:
        value = yaml.safe_load(text)
    except RecursionError:
        raise ValueError("not valid YAML (nested too deeply)") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ValueError(f"not valid YAML ({shorten(str(error), 300)})") from None
    if problem := value_problem(value):
        raise ValueError(f"not valid YAML ({problem})")
    return value


def _brackets(text: str) -> int:
    """The greatest number of brackets that are open at once."""
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth = max(0, depth + (1 if bracket in "[{" else -1))
        deepest = max(deepest, depth)
    return deepest
