"""The files of a recording's turns beside each other: which are ours, which a person has changed, and writing them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...toolkit.base.errors import UserError
from ...toolkit.base.files import write_atomically
from ...toolkit.base.hashes import file_sha256, text_sha256
from ...toolkit.base.outputs import check_output
from ...toolkit.base.reading.texts import representable
from ...toolkit.manifest import is_unchanged, write_manifest
from .document import Document, ReadDocument, document_text, is_document, read_document
from .formats import manifest_of, rttm, subrip, webvtt
from .pieces import is_work_file

COMMAND = "transcribe"
SIDE = (".srt", ".vtt", ".rttm")  # their hashes are in the JSON
MANIFEST = ".jsonl"
_WORK = ".part"


def work_path(out: Path) -> Path:
    """Where an unfinished run keeps what is done."""
    return out.with_name(out.name + _WORK)


@dataclass(frozen=True)
class Earlier:
    """What lies at --out.

    Attributes:
        read: the turns.json there; None if there is none of ours.
        changed: files of ours that a person has changed since, the JSON first.
    """

    read: ReadDocument | None
    changed: list[Path]


def check_files(out: Path, media: Path, corrected: Path | None, overwrite: bool) -> Earlier:
    """Checks that the files of a recording may be written, before any work.

    Args:
        out: turns.json.
        media: the recording, which is never written.
        corrected: the user's file, written only if it is one of ours.
        overwrite: whether what is not ours may be replaced.

    Raises:
        UserError: they may not.
    """
    if out.suffix.lower() != ".json":
        raise UserError(f"{out}: --out must end in .json; the other files get the same name with .srt, .vtt and so on")
    read = read_document(out) if is_document(out) and not out.is_dir() else None
    own = {".json": out} | {ending: out.with_suffix(ending) for ending in (*SIDE, MANIFEST)}
    inputs = [media]
    if corrected is not None and not any(_same_file(corrected, path) for path in own.values()):
        inputs.append(corrected)
    changed = [out] if read is not None and read.changed else []

    def ours(path: Path) -> bool:
        if path == out:
            return read is not None
        if path.suffix == MANIFEST:
            return is_unchanged(path, COMMAND)
        return read is not None and path.suffix in read.document.files

    for path in own.values():
        check_output(path, inputs, earlier=ours, overwrite=overwrite)
    check_output(work_path(out), inputs, earlier=is_work_file, overwrite=overwrite)
    for ending in SIDE:
        path = own[ending]
        if read is not None and path.is_file() and ending in read.document.files:
            if file_sha256(path) not in read.document.files[ending]:
                changed.append(path)
    return Earlier(read, changed)


def _same_file(one: Path, two: Path) -> bool:
    try:
        return os.path.samefile(one, two)
    except OSError:
        return False


def all_there(out: Path, document: Document) -> bool:
    """Whether the files beside a turns.json are there, as they were last written."""
    for ending in SIDE:
        path, hashes = out.with_suffix(ending), document.files.get(ending)
        if not path.is_file() or not hashes or file_sha256(path) != hashes[0]:
            return False
    return out.with_suffix(MANIFEST).is_file()


def write_files(out: Path, document: Document, media: Path, earlier: Document | None = None) -> None:
    """Writes turns.json and the files beside it, each atomically.

    The JSON has the hashes of the others as they will be and as they were, so that a run that is killed between two of
    them leaves no file that seems to be a person's.

    Args:
        out: turns.json.
        document: what to write; its `files` are set.
        media: the recording.
        earlier: what was there.
    """
    name = representable(media.stem) or "recording"
    texts = dict(zip(SIDE, (subrip(document.turns), webvtt(document.turns), rttm(document.turns, name)), strict=True))
    before = {} if earlier is None else earlier.files
    document.files = {
        ending: list(dict.fromkeys([text_sha256(text), *_first(before.get(ending))])) for ending, text in texts.items()
    }
    write_atomically(out, document_text(document).encode("utf-8"))
    for ending, text in texts.items():
        write_atomically(out.with_suffix(ending), text.encode("utf-8"))
    manifest = manifest_of(document.turns, media.resolve(), name)
    write_manifest(manifest, out.with_suffix(MANIFEST), COMMAND)


def _first(hashes: Sequence[str] | None) -> list[str]:
    return list(hashes[:1]) if isinstance(hashes, list) else []
