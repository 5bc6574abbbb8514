"""Text of other programs whose bytes were decoded with the wrong encoding: the one repair that all readers share.

Latin-1 maps every byte to the character of the same number, so whoever decodes bytes as Latin-1 has kept the bytes. Two
things prove that this has happened: the text comes from a byte string (`str` of Python 2, `bytes`), or it contains a C1
control character (U+0080 to U+009F), which nobody writes. Such a text goes back to its bytes, which are UTF-8 if that
is valid and Windows-1252 otherwise. A text without either proof is left alone: in a file that is Unicode, `Ã©` may be
meant.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field

_C1 = {code: bytes([code]).decode("cp1252", "replace") for code in range(0x80, 0xA0)}
_C1_CHARACTER = re.compile("[\x80-\x9f]")
_BYTE = re.compile("[\udc80-\udcff]")  # as Python's surrogateescape represents it


class DecodedBytes(str):
    """A text that was decoded from a byte string which is not ASCII.

    Attributes:
        raw: its bytes.
        encoding: "utf-8" or "cp1252".
    """

    __slots__ = ("encoding", "raw")

    raw: bytes
    encoding: str


def decode(data: bytes) -> str:
    """The text of a byte string of unknown encoding: UTF-8 if it is valid, otherwise Windows-1252.

    UTF-8 that was cut within its last character is still UTF-8; the rest of that character becomes U+FFFD, as does a
    byte that Windows-1252 does not define.
    """
    return _decode(data)[0]


def decode_bytes(data: bytes) -> str:
    """As `decode`, but the result remembers its bytes (`DecodedBytes`) unless they are ASCII."""
    if data.isascii():
        return data.decode("ascii")
    text, encoding = _decode(data)
    made = DecodedBytes(text)
    made.raw, made.encoding = data, encoding
    return made


def _decode(data: bytes) -> tuple[str, str]:
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError as error:
        # One multi-byte character before the cut: a single byte at the end could as well be the "É" of Windows-1252.
        if error.reason == "unexpected end of data" and not data[: error.start].isascii():
            return data[: error.start].decode("utf-8") + "\N{REPLACEMENT CHARACTER}", "utf-8"
    return data.decode("cp1252", "replace"), "cp1252"


def has_c1(text: str) -> bool:
    """Whether a text contains C1 control characters, which are never meant."""
    return not text.isascii() and _C1_CHARACTER.search(text) is not None


def repaired(text: str) -> str:
    """A text with its C1 control characters decoded; a text without them is returned unchanged.

    If every character is below U+0100 the whole text goes back to its bytes (see `decode`); otherwise only the C1
    characters are Windows-1252. Bytes that Python could not decode (file names; surrogateescape) are decoded likewise.
    """
    if text.isascii():
        return text
    if _BYTE.search(text):
        try:
            return repaired(decode(text.encode("utf-8", "surrogateescape")))
        except UnicodeEncodeError:  # other surrogates as well
            return text
    if not has_c1(text):
        return text
    back = _as_latin1(text)
    return text.translate(_C1) if back is None else back


def _as_latin1(text: str) -> str | None:
    """The text of which `text` is the Latin-1 decoding, or None if it has other characters."""
    try:
        return decode(text.encode("latin-1"))
    except UnicodeEncodeError:
        return None


def looks_misread(text: str) -> bool:
    """Whether a text without C1 characters looks like UTF-8 that was decoded as Latin-1 or Windows-1252: `cafÃ©`."""
    if text.isascii():
        return False
    for encoding in ("latin-1", "cp1252"):
        try:
            text.encode(encoding).decode("utf-8")
            return True
        except UnicodeError:
            continue
    return False


def same_name(text: str) -> str:
    """The form in which names are compared that come from different files: repaired, and composed (NFC).

    macOS decomposes file names: `é` is two characters there.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", repaired(str(text)))


def _unmisread(text: str) -> str:
    """The form for comparison of a name that may be UTF-8 decoded as Latin-1."""
    back = _as_latin1(text) if looks_misread(text) else None
    return same_name(text if back is None else back)


def match_names(wanted: Iterable[str], given: Iterable[str]) -> dict[str, str]:
    """For each wanted name the given one that is the same, although one of them may have been decoded wrongly.

    Identical names match first, then those that are equal after repair (`same_name`), then those that are equal if
    `cafÃ©` is UTF-8. Names without a match, or with two, are not in the result.
    """
    given = list(given)
    known = set(given)
    found = {name: name for name in wanted if name in known}
    for form in (same_name, _unmisread):
        if not (rest := [name for name in wanted if name not in found]):
            break
        used, of_form = set(found.values()), {}
        for name in given:
            if name not in used:
                of_form.setdefault(form(name), set()).add(name)
        for name in rest:
            if len(same := of_form.get(form(name), ())) == 1:
                found[name] = next(iter(same))
    return found


@dataclass(slots=True)
class TextRepair:
    """Repairs the texts of one source, and counts.

    A source that has been proven to be UTF-8 decoded as Latin-1 (a text with C1 characters whose bytes are valid UTF-8)
    is so everywhere: then `cafÃ©`, which has no C1 character, is repaired as well. Otherwise it is only reported.

    Attributes:
        latin1: the proof was found.
        counts: what was repaired, by kind.
        example: of each kind, the first text, before and after.
        suspects: texts that look misread but were left alone; the first of them is `suspect`.
    """

    latin1: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    example: dict[str, tuple[str, str]] = field(default_factory=dict)
    suspects: int = 0
    suspect: str = ""

    def learn(self, texts: Iterable[str]) -> None:
        """Looks for the proof in all texts of the source."""
        self.latin1 = self.latin1 or any(
            type(text) is str and has_c1(text) and _is_utf8_as_latin1(text) for text in texts
        )

    def repair(self, text: str) -> str:
        """The repaired text, a plain `str`."""
        if text.isascii():
            return str(text)
        if isinstance(text, DecodedBytes):
            made, plain = repaired(str(text)), text.raw.decode("latin-1")
            kind = "UTF-8" if text.encoding == "utf-8" else "Windows-1252"
            self._count(f"byte strings (Python 2) read as {kind}", plain, made)
            return made
        made = repaired(text)
        if made != text:
            self._count("with C1 control characters, decoded", text, made)
            return made
        if looks_misread(text):
            back = _as_latin1(text) if self.latin1 else None
            if back is not None and back != text:
                self._count("UTF-8 that had been decoded as Latin-1", text, back)
                return back
            self.suspects += 1
            self.suspect = self.suspect or text
        return text

    def _count(self, kind: str, before: str, after: str) -> None:
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.example.setdefault(kind, (before, after))

    def notes(self, what: str) -> list[str]:
        """One line for each kind of repair, with its count.

        Args:
            what: the texts, in the plural.
        """
        lines = [
            f"{what}: {count} {kind}, such as {self.example[kind][0][:40]!a} to {self.example[kind][1][:40]!r}"
            for kind, count in self.counts.items()
        ]
        if self.suspects:
            lines.append(
                f"{what}: {self.suspects} may be UTF-8 that another program decoded wrongly, such as "
                f"{self.suspect[:40]!r}; left unchanged, as nothing in the file proves it"
            )
        return lines


def _is_utf8_as_latin1(text: str) -> bool:
    try:
        text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return False
    return True
