"""Runs on the nodes of a cluster: the store goes there, if it is not there, and a run's files come back."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from ...toolkit.base.cluster import Cluster, Engine, Lost, Node, Place, Seat, Team, opened
from ...toolkit.base.cluster.bundle import files_in, pack, unpack
from ...toolkit.base.device import pick_device
from ...toolkit.base.errors import UserError
from ...toolkit.base.files import atomic_path, write_atomically
from ...toolkit.base.hashes import file_sha256
from ...toolkit.base.processes import Failure, work_off
from ...toolkit.base.reading.plain_yaml import load_yaml
from ...toolkit.store import FeatureStore
from ..config import RUN_SECTION
from ..loop.run_folder import CONFIG, RESULT
from .runs import MEASURED, Perform, RunTask, work

_PIECE = 32 << 20  # bytes of the store that are sent at once
_LAST = (RESULT, MEASURED)  # whose presence means that what they are about is there
_FOLDER_MODE = 0o700


@dataclass(frozen=True)
class GivenRun:
    """A run as a node gets it.

    Attributes:
        task: the run; its paths are those of the driver.
        files: of its folder, from which an interrupted run continues.
        recipe: content of the recipe, if it is a file.
    """

    task: RunTask
    files: bytes
    recipe: bytes | None


@dataclass(frozen=True)
class RunsFactory:
    """Makes a node's worker; pickled.

    Attributes:
        store: where the store is on the driver; it need not be there on a node.
        content: its content hash.
        file: SHA-256 of the file.
    """

    store: Path
    content: str
    file: str

    def __call__(self, seat: Seat) -> RunWorker:
        return RunWorker(self, seat)


class RunWorker:
    """A worker on a node. `needs` says whether it has still to get the store."""

    def __init__(self, given: RunsFactory, seat: Seat) -> None:
        self._given, self._threads = given, seat.threads
        shared = None if seat.shared is None else seat.shared / f"{given.file}.h5"
        places = [given.store, shared, _cache() / f"{given.file}.h5"]
        self._store = next((path for path in places if path is not None and _has(path, given)), None)
        self._digest, self._coming = hashlib.sha256(), _cache() / f".{os.getpid()}.{given.file[:16]}.coming"
        self.needs = self._store is None

    def about(self) -> None:
        """Nothing that the driver would have to know."""

    def supply(self, number: int, of: int, data: bytes) -> None:
        """Takes a piece of the store.

        Raises:
            UserError: it is another one in the end.
        """
        with open(self._coming, "wb" if number == 0 else "ab") as file:
            file.write(data)
        self._digest.update(data)
        if number < of - 1:
            return
        if self._digest.hexdigest() != self._given.file:
            raise UserError("got another store than was sent")
        self._store, self.needs = _cache() / f"{self._given.file}.h5", False
        os.replace(self._coming, self._store)

    def work(self, given: GivenRun) -> bytes:
        """Performs a run in a process of its own, as on one machine, and returns its outcome and the folder's files."""
        assert self._store is not None
        with tempfile.TemporaryDirectory(prefix="erc-toolkit-") as place:
            folder = Path(place) / given.task.folder.name
            _, files = unpack(given.files)
            _write(folder, files)
            task = dataclasses.replace(given.task, store_path=self._store, folder=folder)
            if given.recipe is not None:
                recipe = Path(place) / "recipe" / Path(task.recipe).name
                recipe.parent.mkdir()
                recipe.write_bytes(given.recipe)
                task = dataclasses.replace(task, recipe=str(recipe))
            ((_, outcome),) = work_off(work, [(task,)], 1, self._threads)
            _rename_store(folder / CONFIG, self._store, given.task.store_path)
            after = {name: content for name, content in files_in(folder).items() if files.get(name) != content}
            gone = [name for name in files if not (folder / name).exists()]
        if isinstance(outcome, Failure):
            return pack({"failure": outcome.reason.replace(str(folder), str(given.task.folder)), "gone": gone}, after)
        return pack({"outcome": outcome, "gone": gone}, after)


class RemoteRuns:
    """Performs runs on a cluster, as `run_study` asks. Use it in a `with` statement.

    Args:
        cluster: the cluster.
        notify: called with a line on each node that is not used, or is lost.
    """

    def __init__(self, cluster: Cluster, notify: Callable[[str], None]) -> None:
        self._cluster, self._notify = cluster, notify
        self._team: Team | None = None
        self._for: tuple[object, ...] = ()

    def __enter__(self) -> RemoteRuns:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._team is not None:
            self._team.__exit__(kind, error, traceback)
            self._team = None

    @property
    def where(self) -> str:
        """The cluster in words."""
        return self._cluster.where

    def __call__(self, tasks: Sequence[RunTask], jobs: int, threads: int) -> Iterator[tuple[int, object]]:
        """As `Perform`.

        Raises:
            UserError: no node can be used.
            FaultError: no node is left.
        """
        device = pick_device(tasks[0].device).type
        team = self._workers(tasks[0].store_path.absolute(), jobs, threads, device)

        def given() -> Iterator[tuple[int, GivenRun]]:
            for number, task in enumerate(tasks):
                recipe = Path(task.recipe)
                own = dataclasses.replace(task, device=device, store_path=task.store_path.absolute())
                content = recipe.read_bytes() if recipe.is_file() else None
                yield number, GivenRun(own, pack(None, files_in(task.folder)), content)

        for number, found in team.run(given(), lambda: False):
            if isinstance(found, Lost):
                yield number, Failure(found.reason)
                continue
            about, files = unpack(found)
            folder = tasks[number].folder
            for name in about["gone"]:
                if isinstance(name, str) and name in files_in(folder):
                    (folder / name).unlink()
            _write(folder, files)
            yield number, Failure(about["failure"]) if "failure" in about else tuple(about["outcome"])

    def _workers(self, store: Path, jobs: int, threads: int, device: str) -> Team:
        """The workers for a store, which later calls for the same one use again."""
        with FeatureStore.open(store) as opened:
            content = opened.content_hash
        wanted = store, content, jobs, threads, device
        if self._team is not None and self._for == wanted:
            return self._team
        self.__exit__(None, None, None)
        factory = RunsFactory(store, content, file_sha256(store))
        if self._cluster.shared is not None and not (copy := self._cluster.shared / f"{factory.file}.h5").exists():
            with atomic_path(copy) as temporary:
                shutil.copyfile(store, temporary)
        import psutil

        needed = psutil.Process().memory_info().rss + store.stat().st_size

        def places(node: Node) -> list[Place]:
            count = min(node.cpus // threads, node.memory // needed)
            if device == "cuda":
                count = min(count, node.gpus)
            return [Place(node, threads, int(device == "cuda"), needed)] * count

        self._for = wanted
        self._team = Team(
            self._cluster,
            factory,
            places,
            threads=threads,
            notify=self._notify,
            most=jobs,
            supplies=lambda: _pieces(store),
        )
        return self._team


@contextmanager
def performed(engine: Engine, notify: Callable[[str], None]) -> Iterator[Perform | None]:
    """Yields what performs runs on an engine; None for processes of this machine.

    Raises:
        UserError: as `opened`.
    """
    with opened(engine, notify) as cluster:
        if cluster is None:
            yield None
        else:
            with RemoteRuns(cluster, notify) as runs:
                yield runs


def _pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            yield piece


def _has(path: Path, given: RunsFactory) -> bool:
    """Whether a store is there, with the same content."""
    try:
        with FeatureStore.open(path) as store:
            return store.content_hash == given.content and file_sha256(path) == given.file
    except (UserError, OSError):
        return False


def _cache() -> Path:
    """A folder of this user alone, for the stores that came to this node.

    Raises:
        UserError: it belongs to somebody else.
    """
    own = os.getuid() if hasattr(os, "getuid") else "stores"
    folder = Path(tempfile.gettempdir()) / f"erc-toolkit-{own}"
    folder.mkdir(mode=_FOLDER_MODE, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or (hasattr(os, "getuid") and (found.st_uid != own or found.st_mode & 0o022)):
        raise UserError(f"{folder}: is not a folder of this user alone; remove it, or set TMPDIR")
    return folder


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """Writes the files of a run's folder, those last by which it is known as done."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in sorted(files, key=lambda name: (_LAST.index(name) + 1 if name in _LAST else 0, name)):
        path = folder / name
        if path.parent.resolve() != (folder.resolve() / name).parent:
            raise UserError(f"{path}: a link leads out of the run's folder; remove it")
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, files[name])


def _rename_store(config: Path, here: Path, there: Path) -> None:
    """Lets a run's record name the store as the driver has it, not the copy on this node."""
    if here == there or not config.is_file():
        return
    content: Any = load_yaml(config.read_text(encoding="utf-8"))
    store = content.get(RUN_SECTION, {}).get("store", {})
    if store.get("path") == str(here.resolve()):
        store["path"] = str(there.resolve())
        write_atomically(config, yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode())
