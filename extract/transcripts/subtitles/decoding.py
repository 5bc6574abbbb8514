"""Text files as the programs of the field write them: UTF-8 or UTF-16, or what the file itself declares."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from ....toolkit.base.errors import UserError
from ....toolkit.base.reading.texts import decode_text

_DECLARED = re.compile(rb"""<\?xml[^<>]{0,200}?encoding\s{0,9}=\s{0,9}["']([A-Za-z0-9._-]{1,40})["']""")
# SAMI declares a language, and Windows wrote the file in that language's code page.
_SAMI = re.compile(rb"<SAMI", re.IGNORECASE)
_KOREAN = re.compile(rb"lang\s{0,9}:\s{0,9}ko|KRCC|Class\s{0,9}=\s{0,9}[\"']?KO", re.IGNORECASE)
# Only code pages of text: others of Python's codecs are compressions and ciphers.
_ALLOWED = frozenset(
    "ascii cp437 cp850 cp866 cp874 cp932 cp936 cp949 cp950 big5 big5hkscs euc_jp euc_kr gb18030 gb2312 gbk koi8-r "
    "koi8-u shift_jis utf-8 utf-16 utf-16-le utf-16-be".split()
    + [f"cp125{i}" for i in range(9)]
    + [f"iso8859-{i}" for i in range(1, 17) if i != 12]
)


def decode(data: bytes, source: str | Path) -> tuple[str, str]:
    """The text of a file, as `decode_text`, or in the encoding that it declares itself; and a note on what was assumed.

    Raises:
        UserError: it is no text in that encoding.
    """
    try:
        return decode_text(data, source, windows=False)
    except UserError:
        encoding = _declared(data[:4096])
        if encoding is None:
            return decode_text(data, source)
    try:
        return data.decode(encoding), f"{Path(source).name}: read as {encoding}, by what the file declares"
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{source}, line {line}: not {encoding}, which the file declares; save it as UTF-8") from None


def _declared(head: bytes) -> str | None:
    if match := _DECLARED.search(head):
        try:
            encoding = codecs.lookup(match[1].decode("ascii")).name
        except LookupError:
            return None
        return encoding if encoding in _ALLOWED and encoding != "utf-8" else None
    return "cp949" if _SAMI.search(head) and _KOREAN.search(head) else None


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such transcript") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
