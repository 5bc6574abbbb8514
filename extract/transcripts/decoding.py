"""Text files as the programs of the field write them: UTF-8 or UTF-16, or what the file itself declares."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from ...toolkit.base.errors import UserError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
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


def decode(data: bytes, source: str | Path) -> tuple[str, list[str]]:
    """The text of a file, and a note if its encoding is neither UTF-8 nor marked.

    Raises:
        UserError: the encoding cannot be known, or the bytes are not in it.
    """
    for bom, encoding in _BOMS:
        if data.startswith(bom):
            return _decoded(data[len(bom) :], encoding, source), []
    head = data[:4096]
    if len(data) % 2 == 0 and head.count(0) * 4 > len(head):  # without a mark: every other byte of most texts is zero
        encoding = "utf-16-be" if head[::2].count(0) > head[1::2].count(0) else "utf-16-le"
        return _decoded(data, encoding, source), [f"{encoding.upper()} without a mark that says so"]
    try:
        return data.decode("utf-8"), []
    except UnicodeDecodeError:
        pass
    encoding = None
    if match := _DECLARED.search(head):
        try:
            encoding = codecs.lookup(match[1].decode("ascii")).name
        except LookupError:
            pass
    elif _SAMI.search(head) and _KOREAN.search(head):
        encoding = "cp949"
    if encoding not in _ALLOWED or encoding == "utf-8":
        raise UserError(f"{source}: neither UTF-8 nor UTF-16; save it as UTF-8")
    return _decoded(data, encoding, source), [f"read as {encoding}, by what the file declares"]


def _decoded(data: bytes, encoding: str, source: str | Path) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise UserError(f"{source}: damaged {encoding.upper()}; save it as UTF-8") from None


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
