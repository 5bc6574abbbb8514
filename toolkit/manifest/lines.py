"""The rows of a manifest in JSON Lines, read as often as they are needed: a million of them do not fit into memory."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from ..base.errors import UserError
from ..base.reading.plain_json import parse_json
from ..base.reading.texts import is_utf8, read_text


class JsonLines:
    """The rows of a manifest file; each iteration reads it again.

    Attributes:
        path: the file.
        header: its header, known when an iteration has begun; empty if it has none.
        notes: what was assumed about its encoding.

    Raises:
        UserError: there is no such file, it cannot be read, or it is no text.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: dict[str, object] = {}
        self.notes: list[str] = []
        self._text: str | None = None
        # Another encoding, or what is not a file, such as a pipe, is held in memory; or it is refused here.
        if not is_utf8(path):
            self._text, note = read_text(path, "manifest", windows=False)
            self.notes += [note] if note else []

    def __iter__(self) -> Iterator[tuple[int, dict[str, object]]]:
        """Yields (number of the line, row) of every row.

        Raises:
            UserError: a line is not a JSON object that can be read, or is a header and not the first; names the line.
        """
        self.header = {}
        rows = 0
        for number, line in self._lines():
            if not line.strip():
                continue
            try:
                row = parse_json(line)
            except ValueError as error:
                raise UserError(
                    f"{self.path}, line {number}{',' if str(error).startswith('field') else ':'} {error}"
                ) from None
            if not isinstance(row, dict):
                raise UserError(f"{self.path}, line {number}: not a JSON object with the fields of an utterance")
            if "erc_manifest" in row:
                if rows or self.header:
                    raise UserError(
                        f"{self.path}, line {number}: the header must be the first line and occur only once"
                    )
                self.header = row
            else:
                rows += 1
                yield number, row

    def _lines(self) -> Iterator[tuple[int, str]]:
        if self._text is not None:
            yield from enumerate(self._text.split("\n"), 1)
            return
        try:
            with open(self.path, "rb") as file:
                for number, line in enumerate(file, 1):
                    text = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).decode("utf-8")
                    yield number, text.removesuffix("\n")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError:
            raise UserError(f"{self.path}: was changed while it was read; run the command again") from None
