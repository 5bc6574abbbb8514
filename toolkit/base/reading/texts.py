"""Text from bytes that users give: the encodings that programs write, recognised, and what cannot be text, refused."""

from __future__ import annotations

import codecs
from pathlib import Path

from ..errors import UserError
from ..words import counted

# Byte-order marks, the longer ones first: UTF-32's begins like UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LOOKED_AT = 4096  # bytes by which UTF-16 without a mark is recognised
_CHUNK = 1 << 20
_LEAST_ZEROS = 0.1  # of its 16-bit units with a zero byte; separators, digits and line ends have one in any language


def decode_text(data: bytes, source: str | Path, windows: bool = True) -> tuple[str, str]:
    """The text of a user's file, without a byte-order mark, and a note on what was assumed about it.

    UTF-8; UTF-16 or UTF-32 with a byte-order mark; UTF-16 without one if every other byte shows it. In anything else,
    the lines that are not UTF-8 are read as Windows-1252, since files are often put together from both.

    Args:
        data: the file's content.
        source: its path, for the error; the note has its name only, since notes are kept in stores.
        windows: whether it may be Windows-1252, in part or as a whole.

    Returns:
        The text, with the line ends of the file, and the note, empty if the file is UTF-8 or has a mark.

    Raises:
        UserError: it is no text in these encodings; names the file and the line.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return data[len(mark) :].decode(encoding), ""
            except UnicodeDecodeError as error:
                if encoding == "utf-8":
                    data = data[len(mark) :]
                    break
                raise UserError(
                    f"{source}: begins like {encoding[:6].upper()} and is not ({error.reason} at byte {error.start}); "
                    "save it as UTF-8"
                ) from None
    else:
        if encoding := _utf_16(data, len(data)):
            try:
                note = f"{Path(source).name}: read as {encoding[:6].upper()}, without a byte-order mark"
                return data.decode(encoding), note
            except UnicodeDecodeError:
                pass
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError as error:
        if windows:
            return _mixed(data, source)
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{source}, line {line}: not UTF-8 (byte {data[error.start]:#04x}); save it as UTF-8") from None


def read_text(path: Path, what: str, remedy: str = "", windows: bool = True) -> tuple[str, str]:
    """`decode_text` of a file.

    Args:
        path: the file.
        what: what it should be, for the error if there is no such file, e.g. "manifest".
        remedy: what to do if there is none.
        windows: whether it may be Windows-1252, in part or as a whole.

    Raises:
        UserError: there is no such file, or it cannot be read, or is no text.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such {what}{'; ' if remedy else ''}{remedy}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:  # a NUL character in the path
        raise UserError(f"{str(path)!r}: no such {what}: the path contains a NUL character") from None
    return decode_text(data, path, windows)


def is_utf8(path: Path) -> bool:
    """Whether a file is UTF-8 with or without a byte-order mark, so that it can be read line by line.

    False for anything `read_text` has to judge: another encoding, an error in it, a file that cannot be read or that
    can be read only once.
    """
    try:
        if not path.is_file():
            return False
        with open(path, "rb") as file:
            head = file.read(_LOOKED_AT + 1)
            if any(head.startswith(mark) for mark, _ in _MARKS[1:]) or (
                not head.startswith(codecs.BOM_UTF8) and _utf_16(head, path.stat().st_size)
            ):
                return False
            decoder = codecs.getincrementaldecoder("utf-8")()
            file.seek(0)
            while chunk := file.read(_CHUNK):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
    except (OSError, ValueError):
        return False
    return True


def representable(text: str) -> str:
    """The text with what UTF-8 cannot represent, such as a file name's undecodable bytes, as escapes (`\\udcff`)."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _utf_16(data: bytes, size: int) -> str:
    """The encoding if every other byte of the beginning is often zero and the bytes between never are, else ""."""
    head = data[: _LOOKED_AT + 1 & ~1]
    first, second = head[0::2].count(0), head[1::2].count(0)
    if size % 2 or max(first, second) < max(2, _LEAST_ZEROS * len(head) / 2) or min(first, second):
        return ""
    return "utf-16-le" if second else "utf-16-be"


def _mixed(data: bytes, source: str | Path) -> tuple[str, str]:
    lines, other = data.split(b"\n"), 0
    texts: list[str] = []
    for number, line in enumerate(lines, 1):
        try:
            texts.append(line.decode("utf-8"))
        except UnicodeDecodeError:
            try:
                texts.append(line.decode("cp1252"))
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{source}, line {number}: neither UTF-8 nor Windows-1252 (byte {line[error.start]:#04x}); save it "
                    "as UTF-8"
                ) from None
            other += 1
    return "\n".join(texts), f"{Path(source).name}: {counted(other, 'line')} not UTF-8, read as Windows-1252"
