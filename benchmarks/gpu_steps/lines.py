"""The file of a step's results: a line when something begins, and a line with its result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

Row = dict[str, Any]
AGAIN = 75  # exit status of a step whose device can no longer be used by its process; it is started again


def read_lines(file: Path) -> tuple[list[Row], list[tuple[str, Row]]]:
    """The results in a step's file, and the (table, key) of what had begun and has no result."""
    rows, begun = [], []
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    for text in lines:
        try:
            line = json.loads(text)
        except ValueError:  # the process was killed while it wrote
            continue
        if "begun" in line:
            begun.append((line["begun"], line["key"]))
        else:
            rows.append(line)
    ended = [(row["table"], row["key"]) for row in rows]
    return rows, [one for one in begun if one not in ended]
