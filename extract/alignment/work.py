"""The lines of an overlay in progress, on disk, so that a run that was stopped continues."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...toolkit.base.errors import UserError
from ...toolkit.base.files import append_text, write_atomically
from ...toolkit.base.reading.plain_json import header_format, parse_json
from ...toolkit.manifest import is_unchanged
from .overlay import Line, parse_line

COMMAND = "realign"
_WORK = "erc-toolkit realign work"


def work_path(out: Path) -> Path:
    """Where an unfinished run keeps what is done."""
    return out.with_name(out.name + ".part")


def is_work(path: Path) -> bool:
    """Whether a file is what an unfinished run has kept."""
    return header_format(path) == _WORK


def line_text(line: Line) -> str:
    """A line of the file, with its line break."""
    row = dataclasses.asdict(line)
    if line.face is None:
        del row["face"]
    return json.dumps(row, ensure_ascii=False) + "\n"


class Work:
    """The file of an unfinished overlay: a header, and lines of which the last of an utterance counts.

    Args:
        out: the overlay.
        corpus: its name.
        request: what the lines depend on; `faces` in it is what only their faces depend on.

    Attributes:
        path: the file.
    """

    def __init__(self, out: Path, corpus: str, request: dict[str, Any]) -> None:
        self.path, self._out, self._request = work_path(out), out, request
        self._header = {"format": _WORK, "corpus": corpus, **request}

    def earlier(self) -> dict[str, Line]:
        """The lines of an unfinished run and of a finished overlay, as far as they were made with the same options."""
        finished = self._lines(self._out) if is_unchanged(self._out, COMMAND) else {}
        return {**finished, **(self._lines(self.path) if is_work(self.path) else {})}

    def begin(self, lines: Iterable[Line]) -> None:
        """Writes the file with these lines."""
        write_atomically(self.path, (json.dumps(self._header) + "\n" + "".join(map(line_text, lines))).encode())

    def add(self, lines: Iterable[Line]) -> None:
        """Adds finished lines."""
        append_text(self.path, "".join(map(line_text, lines)))

    def _lines(self, path: Path) -> dict[str, Line]:
        found: dict[str, Line] = {}
        try:
            with open(path, encoding="utf-8") as file:
                header = parse_json(file.readline())
                if any(header.get(name) != self._header[name] for name in ("corpus", "options", "ctc")):
                    return {}
                same_faces = header.get("faces") == self._request["faces"]
                for row in file:
                    if not row.endswith("\n"):  # cut off
                        break
                    line = parse_line(parse_json(row), str(path))
                    found[line.id] = line if same_faces else line.without_face()
        except (OSError, ValueError, UserError):
            pass  # cut off or damaged: what came before it counts
        return found
