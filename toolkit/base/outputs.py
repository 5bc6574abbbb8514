"""The rule for every file and folder that a command writes, and the marks by which it knows its own earlier output.

What exists and is not an earlier output of the same command is refused, unless `--overwrite` replaces it. What a
command reads is never replaced, whatever the names: files are compared by device and inode, which sees through links.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError
from .files import is_temporary, sync_folder

_Identity = tuple[int, int]


def check_output(
    out: Path,
    inputs: Iterable[Path] = (),
    *,
    earlier: Callable[[Path], bool] | None = None,
    overwrite: bool = False,
    option: str = "--out",
) -> None:
    """Checks that a file may be written at `out`. Call it before the work starts.

    Args:
        out: the file to write.
        inputs: files that the command reads, and folders whose files it reads.
        earlier: whether an existing file is an earlier output of this command, which is replaced; None where that
            needs `overwrite` too, since it took long to make or cannot be told apart.
        overwrite: whether another file may be replaced.
        option: what the user names `out` with.

    Raises:
        UserError: it may not.
    """
    if not os.path.lexists(out):
        if not out.parent.is_dir():
            raise UserError(f"{out}: there is no folder {out.parent}; create it first")
        return
    if out.is_dir():
        raise UserError(f"{out}: is a folder; {option} must name a file")
    if not out.is_file():
        raise UserError(f"{out}: is not a regular file; choose another {option}")
    inputs, own = list(inputs), _identities([out])
    _refuse_inputs(out, own, [path for path in inputs if not path.is_dir()], option)
    if earlier is not None and earlier(out):
        return  # also within a folder that is read, e.g. a report in the folder of its run
    _refuse_inputs(out, own, inputs, option)
    if not overwrite:
        raise UserError(_taken(out, "exists", earlier is not None, option))


def check_folder(
    out: Path,
    names: Sequence[str],
    inputs: Iterable[Path] = (),
    *,
    earlier: Callable[[Path], bool] | None = None,
    overwrite: bool = False,
    option: str = "--out",
) -> None:
    """Checks that files may be written into the folder `out`; arguments and errors as for `check_output`.

    Args:
        names: the files and folders in `out` that the command writes or deletes; nothing else is replaced.
    """
    if out.is_dir():
        _refuse_inputs(out, _identities(out / name for name in names), inputs, option)
        if (
            any(not is_temporary(path.name) for path in out.iterdir())
            and not overwrite
            and not (earlier is not None and earlier(out))
        ):
            raise UserError(_taken(out, "is not empty", earlier is not None, option))
    elif os.path.lexists(out):
        raise UserError(f"{out}: is not a folder; {option} must name a folder")


def _taken(out: Path, state: str, recognised: bool, option: str) -> str:
    foreign = ", and is not an unchanged earlier output of this command" if recognised else ""
    return f"{out}: {state}{foreign}; choose another {option}, or replace it with --overwrite"


def _refuse_inputs(out: Path, own: set[_Identity], inputs: Iterable[Path], option: str) -> None:
    for path in inputs if own else ():
        if not own.isdisjoint(_identities([path])):
            what = f"lies in the input folder {path}" if path.is_dir() else f"is the input {path}"
            raise UserError(f"{out}: would be overwritten, but {what}; choose another {option}")


def _identities(paths: Iterable[Path]) -> set[_Identity]:
    """Device and inode of each file, and of each file below each folder; what does not exist has none."""
    found = set()
    for path in paths:
        names = [str(path)]
        if path.is_dir():
            names = [os.path.join(folder, name) for folder, _, files in os.walk(path) for name in files]
        for name in names:
            try:
                status = os.stat(name)
            except OSError:  # a link to nowhere, or no such file
                continue
            found.add((status.st_dev, status.st_ino))
    return found


_STAMP = "\n<!-- written by erc-toolkit {command}; a change makes this file yours; sha256 {sha256} -->\n"
_STAMPED = re.compile(
    rb"\n<!-- written by erc-toolkit (.+); a change makes this file yours; sha256 ([0-9a-f]{64}) -->\n\Z"
)
_LONGEST_STAMP = 256


def stamped(text: str, command: str) -> str:
    """A Markdown or HTML text with a closing comment: the command that wrote it, and a hash that reveals any change.

    Such files invite changes (a licence is chosen, a paragraph added), which must not be overwritten.
    """
    return text + _STAMP.format(command=command, sha256=hashlib.sha256(text.encode()).hexdigest())


def is_stamped(path: Path, command: str) -> bool:
    """Whether a file is a text of `stamped` by this command and unchanged."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _LONGEST_STAMP))
            found = _STAMPED.search(file.read())
            if found is None or found[1] != command.encode():
                return False  # the rest of a large file of somebody else's is not read
            file.seek(0)
            text = file.read(size - len(found[0]))
            return found[2].decode() == hashlib.sha256(text).hexdigest()
    except OSError:
        return False


@contextmanager
def staged_folder(folder: Path, replaced: Sequence[str] = ()) -> Iterator[Path]:
    """Yields an empty folder whose content is published as `folder` on a clean exit; on an error nothing is left.

    Args:
        folder, replaced: as for `publish_folder`.
    """
    folder = folder.resolve()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:  # a file is where a folder must be
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent) as holder:
        work = Path(holder) / "new"  # with the permissions of any new folder; those of the holder are the user's alone
        work.mkdir()
        yield work
        publish_folder(work, folder, replaced)


def publish_folder(work: Path, folder: Path, replaced: Iterable[str] = ()) -> None:
    """Moves a finished folder to its place, at once if there is none yet or an empty one.

    Args:
        work: the finished folder, on the same file system.
        folder: its place; other files there are kept.
        replaced: files and folders of an earlier output there, which are deleted first.
    """
    made = [Path(above, name) for above, _, names in os.walk(work) for name in names]
    for path in made:
        with open(path, "rb+") as file:
            os.fsync(file.fileno())
    if folder.is_dir() and any(folder.iterdir()):
        for name in replaced:
            shutil.rmtree(folder / name) if (folder / name).is_dir() else (folder / name).unlink(missing_ok=True)
        for path in made:
            target = folder / path.relative_to(work)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, target)
        shutil.rmtree(work)
    else:
        if folder.is_dir():
            folder.rmdir()
        work.rename(folder)
    sync_folder(folder.parent)
