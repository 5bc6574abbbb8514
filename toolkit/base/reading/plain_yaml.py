"""YAML from users: plain values, as in `plain_json`."""

from __future__ import annotations

from typing import Any

import yaml

from .plain_json import value_problem


def load_yaml(text: str) -> Any:
    """Parses YAML with plain values only.

    Raises:
        ValueError: it is not YAML, or has what `parse_json` refuses; the message is one line.
    """
    try:
        value = yaml.safe_load(text)
    except RecursionError:
        raise ValueError("not valid YAML (nested too deeply)") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ValueError(f"not valid YAML ({' '.join(str(error).split())[:300]})") from None
    if problem := value_problem(value):
        raise ValueError(f"not valid YAML ({problem})")
    return value
