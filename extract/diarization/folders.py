"""Folders of recordings: each one's turns in a folder, a bad file leaves out only itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...toolkit.base.errors import FaultError, UserError
from ...toolkit.base.media_endings import MEDIA_SUFFIXES
from ...toolkit.base.words import counted
from .document import Document
from .faces import FaceFinder
from .loading import Loader, ModelError, Options
from .transcribe import transcribe


@dataclass
class FolderResult:
    """What became of a folder.

    Attributes:
        documents: recording to its turns, and where they are.
        failed: recording to the reason why it was left out.
    """

    documents: dict[Path, tuple[Path, Document]] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)

    def finish(self, show: Callable[[str], None]) -> None:
        """Shows the counts.

        Raises:
            FaultError: recordings were left out, or have no voice (exit status 3).
        """
        turns = sum(len(document.turns) for _, document in self.documents.values())
        show(f"{counted(len(self.documents), 'recording')}, {counted(turns, 'turn')}")
        silent = [str(path) for path, (_, document) in self.documents.items() if document.reason]
        if self.failed or silent:
            parts = [f"{counted(len(self.failed), 'recording')} left out"] if self.failed else []
            parts += [f"{counted(len(silent), 'recording')} without a voice ({silent[0]})"] if silent else []
            raise FaultError(f"{' and '.join(parts)}; everything else is done")


def recordings_below(root: Path) -> list[Path]:
    """The video and audio files below a folder by their endings, sorted; hidden ones are left out."""
    found = []
    for folder, below, files in os.walk(root):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found += [Path(folder) / name for name in sorted(files) if not name.startswith(".")]
    return [path for path in found if path.suffix.lower() in MEDIA_SUFFIXES]


def names_of(recordings: list[Path], root: Path) -> dict[Path, str]:
    """A name for each recording: its path below the root without the ending, with it where two would be the same."""
    plain = {path: path.relative_to(root).with_suffix("").as_posix() for path in recordings}
    taken = list(plain.values())
    return {p: n if taken.count(n) == 1 else p.relative_to(root).as_posix() for p, n in plain.items()}


def transcribe_folder(
    root: Path,
    out: Path,
    options: Options,
    *,
    overwrite: bool = False,
    faces: FaceFinder | None = None,
    loader: Loader | None = None,
    command: str = "",
    notify: Callable[[str], None] = print,
) -> FolderResult:
    """Transcribes every recording below a folder; those that are done and unchanged are not computed again.

    Args:
        root: the folder.
        out: folder for NAME.json and the files beside it, in the same subfolders.
        options: of all recordings; `names` in order of appearance in each.
        overwrite, faces, loader, command, notify: as for `transcribe`.

    Raises:
        UserError: no recordings, a model that cannot be loaded, or `out` is a file.
    """
    recordings = recordings_below(root)
    if out.resolve().is_relative_to(root.resolve()):
        recordings = [path for path in recordings if not path.resolve().is_relative_to(out.resolve())]
    if not recordings:
        raise UserError(f"{root}: contains no video or audio file, not even in subfolders")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is not a folder; for a folder of recordings --out must name a folder")
    loader = loader or Loader(options)
    result = FolderResult()
    for number, (path, name) in enumerate(names_of(recordings, root).items(), 1):
        place = out / f"{name}.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            one = transcribe(
                path, place, options, overwrite=overwrite, faces=faces, loader=loader, command=command, notify=notify
            )
        except ModelError:
            raise  # no other recording can do without it
        except UserError as error:
            result.failed[path] = error.message
            notify(f"left out: {error.message}")
            continue
        result.documents[path] = place, one.document
        for line in one.lines:
            notify(line)
        notify(f"{number} of {len(recordings)}: {name}, {counted(len(one.document.turns), 'turn')}")
    return result
