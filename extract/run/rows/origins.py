"""What each row of a feature was made from: the key by which a later run tells whether it must be computed again.

A row's key is a hash of everything of its utterance that its values depend on: the content of the media file, span,
region, channel, the face that is given, and mask; or text, speaker and context. It does not depend on the utterance's
id or place. The content of a file is hashed when the file is decoded. Later it is only read again if its location, size
or times changed, and not even then if no file of that size is known, since its content must be new.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import xxhash

from ....toolkit.base.hashes import json_sha256
from ....toolkit.manifest import Utterance
from ...encoders.base import Turn

UNKNOWN = ""  # the key of a row, or the content of a file, that must not be reused
MISSING = "missing"  # the content of a file that does not exist
_READ_BYTES = 1 << 20
# A file that was written again within one step of its file system's clock looks the same; FAT's is 2 s.
_CLOCK_STEP_S = 2.0
_KEY_CHARACTERS = 32


@dataclass(frozen=True)
class FileFacts:
    """A media file as it was when it was read.

    Attributes:
        identity: a hash of location, size, times and inode; the same as long as nobody touched the file.
        size: in bytes.
        content: XXH3 (128 bits) of its bytes, in hexadecimal, `MISSING` or `UNKNOWN`.
    """

    identity: str
    size: int
    content: str


def identify(path: Path) -> tuple[str, int]:
    """The identity of a file and its size; ("", -1) if it does not exist or is not a regular file."""
    try:
        found = os.stat(path)
    except OSError:
        return "", -1
    if not stat.S_ISREG(found.st_mode):
        return "", -1
    facts = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    name = os.fsencode(os.path.abspath(path))
    return xxhash.xxh3_128_hexdigest(b"%d %d %d %d %d " % facts + name), found.st_size


def read_content(path: Path) -> str:
    """The hash of a file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    digest = xxhash.xxh3_128()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_READ_BYTES):
            digest.update(piece)
    return digest.hexdigest()


class Reading:
    """Notes which file is read, from before its decoding (`Reading(path)`) to after it (`facts()`)."""

    def __init__(self, path: Path):
        self._path = path
        self._identity, self._size = identify(path)

    def facts(self) -> FileFacts:
        """The file's facts; its content is `UNKNOWN` if it changed since, so that its rows are computed again."""
        if not self._identity:
            return FileFacts("", -1, UNKNOWN if self._path.exists() else MISSING)
        try:
            content = read_content(self._path)
            recent = time.time() - self._path.stat().st_mtime < _CLOCK_STEP_S
        except OSError:
            return FileFacts("", -1, UNKNOWN)
        if identify(self._path)[0] != self._identity:
            return FileFacts("", -1, UNKNOWN)
        return FileFacts("" if recent else self._identity, self._size, content)


class KnownFiles:
    """The content of media files, from what earlier runs noted, and otherwise read where it is in doubt.

    Args:
        always_read: read every file whose size is known, also if its identity is known too.
    """

    def __init__(self, always_read: bool = False):
        self._always_read = always_read
        self._noted: set[FileFacts] = set()
        self._contents: dict[str, str] = {}
        self._known_sizes: set[int] = set()
        self._identities: dict[Path, tuple[str, int]] = {}
        self._read: dict[Path, str] = {}
        self._new: set[Path] = set()

    def learn(self, files: Iterable[FileFacts]) -> None:
        """Adds files that a run noted."""
        found = [file for file in files if file.content not in (UNKNOWN, MISSING)]
        self._noted.update(found)
        self._contents.update({file.identity: file.content for file in found if file.identity})
        self._known_sizes.update(file.size for file in found)
        self._new.clear()  # what differed from every file known may be equal to one of these

    def identity(self, path: Path) -> str:
        """The identity of a file, as it was when this run first asked; "" if there is no such file."""
        return self._identified(path)[0]

    def size(self, path: Path) -> int:
        """The size of a file in bytes, likewise; -1 if there is no such file."""
        return self._identified(path)[1]

    def content(self, path: Path) -> str | None:
        """The content of a file, `MISSING`, or None if it differs from that of every file known.

        The file is read only if it may have the content of a known one.
        """
        identity, size = self._identified(path)
        if not identity:
            return MISSING if not path.exists() else None
        if path not in self._read and path not in self._new:
            known = None if self._always_read else self._contents.get(identity)
            if known is None and size in self._known_sizes:
                try:
                    known = read_content(path)
                except OSError:
                    pass  # the worker finds out why
            if known is None:
                self._new.add(path)
            else:
                self._read[path] = known
        return self._read.get(path)

    def table(self, paths: Iterable[Path]) -> list[FileFacts]:
        """What is known of these files and of those whose identity could not be noted, for the store."""
        found = {}
        for path in paths:
            identity, size = self._identified(path)
            content = self._contents.get(identity) or self._read.get(path)
            if identity and content:
                found[identity] = FileFacts(identity, size, content)
        contents = {file.content for file in found.values()}
        unnamed = [file for file in self._noted if not file.identity and file.content not in contents]
        return [*found.values(), *unnamed]

    def _identified(self, path: Path) -> tuple[str, int]:
        if path not in self._identities:
            self._identities[path] = identify(path)
        return self._identities[path]


def source_of(utterance: Utterance, modality: str) -> tuple[str | None, float | None, float | None]:
    """The file of an utterance's audio or video relative to the root, or None, and the span in it in seconds."""
    if modality == "audio" and utterance.audio:
        return utterance.audio, utterance.audio_start, utterance.audio_end
    return utterance.media, utterance.start, utterance.end


def lasts(utterance: Utterance) -> float | None:
    """Seconds that the utterance's own audio file must last, where the corpus says so."""
    found = utterance.extra.get("audio_lasts")
    return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) else None


def mask_of(utterance: Utterance, modality: str) -> str:
    """Why an utterance has no audio or video, as far as the manifest says; "" if its file has to be read."""
    path, start, end = source_of(utterance, modality)
    if reason := utterance.mask.get(modality):
        return reason
    if path is None:
        return "no media file in the manifest"
    if (start or 0) < 0 or (end is not None and end <= (start or 0)):
        return f"invalid time span: {start} to {end} s"
    return ""


def media_key(utterance: Utterance, modality: str, content: str) -> str:
    """The key of a row of audio or video.

    Args:
        utterance: the row's.
        modality: "audio" or "visual".
        content: of its file; it plays no part if the manifest masks the row. Any other text that stands for the file
            gives a key that stands for the row in the same way.
    """
    if mask := mask_of(utterance, modality):
        return _key(["masked", mask])
    if content == UNKNOWN:
        return UNKNOWN
    path, start, end = source_of(utterance, modality)
    own = lasts(utterance) if path == utterance.audio else None
    region = list(utterance.region) if modality == "visual" and utterance.region is not None else None
    made_from = [modality, content, start, end, region, utterance.audio_channel, own]
    if modality == "visual" and utterance.speaker_face is not None:  # without one, as in earlier versions
        made_from.append(utterance.speaker_face)
    return _key(made_from)


def text_key(turn: Turn, mask: str) -> str:
    """The key of a row of text: of the input of its extractor, or of the reason why the manifest masks it."""
    made_from: list[object] = ["text", turn.text, turn.speaker, list(turn.before)]
    if turn.described:  # without it, as in earlier versions
        made_from.append(turn.described)
    return _key(["masked", mask] if mask else made_from)


def keys_of_media(utterances: Iterable[Utterance], modality: str, contents: Mapping[str, str | None]) -> list[str]:
    """The keys of rows, `UNKNOWN` for those whose file has a new content.

    Args:
        utterances: of the rows.
        modality: "audio" or "visual".
        contents: path relative to the root to content, or None.
    """
    return [media_key(u, modality, contents.get(source_of(u, modality)[0] or "") or UNKNOWN) for u in utterances]


def _key(made_from: list[object]) -> str:
    return json_sha256(made_from)[:_KEY_CHARACTERS]
