"""Commands that are killed, stopped, run out of disk space or run twice at a fixed point, and what must hold then."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from command_support import erc
from safetensors.numpy import load_file

from erc_toolkit.toolkit.store import FeatureStore

HOOKS = Path(__file__).with_name("hooks")
KINDS = ("kill", "stop", "stop a worker", "fill", "twice")
# CHAOS_POINTS=8 tries each disturbance at eight points of each command.
POINTS = int(os.environ.get("CHAOS_POINTS", "0"))
LIMIT_S = 240
DEATH_S = 2.0  # within which every process of a command is gone after its first one
# Files that are the same bytes in every run; of the others, times and the like differ.
_SAME_BYTES = (".safetensors", ".npz", ".pkl", ".srt", ".vtt", "predictions.csv", "turns.csv", "results.csv")


@dataclass
class Command:
    """A command under test.

    Attributes:
        name: for the table.
        arguments: given the folder for everything that it writes, its arguments.
        again: further ones of the command that continues what was disturbed.
        prepare: puts into the folder what the command changes or removes.
        locks: whether a second one is refused while the first is at work.
        total, content: number of events of an undisturbed run, and what it writes (`content_of`).
    """

    name: str
    arguments: Callable[[Path], list[object]]
    again: tuple[str, ...] = ()
    prepare: Callable[[Path], object] = lambda folder: None
    locks: bool = False
    total: int = 0
    content: dict[str, str] = field(default_factory=dict)

    def learn(self, folder: Path) -> Command:
        """Runs it undisturbed."""
        root = self._begin(folder)
        done = Child(self.arguments(root), folder, root)
        assert done.wait() == 0, done.output()
        self.total = len((folder / "log").read_text().splitlines())
        self.content = content_of(root)
        return self

    def try_out(self, kind: str, place: float, folder: Path) -> str:
        """Disturbs it at a place between 0 and 1 of its events, and runs it again; returns the point in words.

        Fails if a file is half written, a process is left, an error is more than a line, or the result differs.
        """
        point = 1 + round(place * (self.total - 1))
        root = self._begin(folder)
        child = Child(self.arguments(root), folder, root, kind if kind in ("kill", "fill") else "stop", point)
        outcome = self._twice(child, root, folder) if kind == "twice" else self._disturbed(child, kind)
        child.assert_nothing_is_left()
        whole_files(root)
        if outcome != "refused":
            again = erc(*self.arguments(root), *self.again, cwd=folder)
            assert again.returncode == 0, again.stdout + again.stderr
        found = content_of(root)
        assert found == self.content, {
            name: (found.get(name), self.content.get(name))
            for name in found.keys() | self.content.keys()
            if found.get(name) != self.content.get(name)
        }
        return f"at event {point} of {self.total}: {outcome}"

    def _begin(self, folder: Path) -> Path:
        root = folder / "root"
        root.mkdir()
        self.prepare(root)
        return root

    def _disturbed(self, child: Child, kind: str) -> str:
        if kind == "fill":
            code = child.wait()
            child.assert_one_line()
            assert code in (0, 1), f"status {code}: a full disk is no fault of the program\n{child.output()}"
            return f"status {code}"
        if kind == "kill":
            code = child.wait()
        else:
            if child.stopped():
                if kind == "stop a worker":
                    for worker in child.others():
                        if "resource_tracker" not in program(worker):  # which is Python's own, and does no work
                            os.kill(worker, signal.SIGSTOP)
                    child.process.send_signal(signal.SIGCONT)
                child.process.kill()
            code = child.wait()
        assert code == -signal.SIGKILL, f"the point was not reached: status {code}\n{child.output()}"
        return "killed"

    def _twice(self, first: Child, root: Path, folder: Path) -> str:
        """The second runs to its end while the first is stopped; then the first goes on."""
        assert first.stopped(), f"the point was not reached: {first.output()}"
        second = Child(self.arguments(root), folder)
        code = second.wait()
        second.assert_one_line()
        first.process.send_signal(signal.SIGCONT)
        last = first.wait()
        first.assert_one_line()
        if self.locks:
            assert code == 1 and str(first.process.pid) in second.output(), second.output()
            assert last == 0, first.output()
        assert 0 in (code, last), (second.output(), first.output())
        return "refused" if code and not last else f"status {code} and {last}"


class Child:
    """`erc-toolkit ARGUMENTS` in a session of its own, disturbed if there is a point."""

    started: list[Child] = []

    def __init__(
        self, arguments: list[object], folder: Path, root: Path | None = None, kind: str = "", point: int = 0
    ) -> None:
        Child.started.append(self)
        self._log = folder / f"output{len(Child.started)}"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join([str(HOOKS), *filter(None, [os.environ.get("PYTHONPATH")])])
        if root is not None:
            log = folder / "log"
            environment |= {"CHAOS_ROOT": str(root), "CHAOS_LOG": str(log), "CHAOS_KIND": kind}
            environment["CHAOS_POINT"] = str(point)
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "erc_toolkit", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment,
                cwd=folder,
            )

    def wait(self) -> int:
        """Its exit status."""
        try:
            return self.process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"still at work after {LIMIT_S} s:\n{self.output()}") from None

    def end(self) -> None:
        """Ends it and its other processes, whatever they are at; a stopped one would stay for ever."""
        for pid in self.others():
            os.kill(pid, signal.SIGKILL)
        if self.process.returncode is None:
            self.process.kill()
            self.process.wait()

    def stopped(self) -> bool:
        """Waits until it is stopped; False if it ends before."""
        found = os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        return found is not None and found.si_code in (os.CLD_STOPPED, os.CLD_TRAPPED)

    def others(self) -> list[int]:
        """Its other processes that are alive."""
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdecimal() and int(entry.name) != self.process.pid:
                try:
                    state, _, _, session = Path(entry.path, "stat").read_text().rpartition(")")[2].split()[:4]
                except OSError:  # it has just ended
                    continue
                if int(session) == self.process.pid and state != "Z":
                    found.append(int(entry.name))
        return found

    def output(self) -> str:
        """What it printed."""
        return self._log.read_text(errors="replace")

    def assert_one_line(self) -> None:
        """Nothing that a user would not understand."""
        text = self.output()
        assert "Traceback" not in text and "Errno" not in text, text
        assert sum(line.startswith("Error: ") for line in text.splitlines()) <= 1, text

    def assert_nothing_is_left(self) -> None:
        """All its processes are gone a moment after the first."""
        until = time.monotonic() + DEATH_S
        while (left := self.others()) and time.monotonic() < until:
            time.sleep(0.05)
        names = [program(pid) for pid in left]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, names


def program(pid: int) -> str:
    """The command line of a process; empty if it has just ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")[:200]
    except OSError:
        return ""


def whole_files(root: Path) -> None:
    """Every file that has its final name can be read to its end."""
    for path in root.rglob("*"):
        if not path.is_file() or path.name.startswith(".") or path.suffix in (".tmp", ".lock"):
            continue
        if path.suffix == ".h5":
            with FeatureStore.open(path) as store:
                store.verify()
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            assert all(map(json.loads, path.read_text().splitlines()))
        elif path.suffix == ".npz":
            with np.load(path) as file:
                assert all(file[name] is not None for name in file)
        elif path.suffix == ".pkl":
            with open(path, "rb") as file:  # which the test's own command wrote
                pickle.load(file)


def content_of(root: Path) -> dict[str, str]:
    """The files below a folder, hidden ones too: their content where it is the same in every run."""
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.suffix == ".h5":
            with FeatureStore.open(path) as store:
                store.verify()
                found[name] = store.content_hash
        elif path.is_file() and path.name.endswith(_SAME_BYTES):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = ""
    return found


def places(count: int) -> list[float]:
    """`count` places of the progress, or as many as CHAOS_POINTS says, evenly over it and never the very first."""
    count = POINTS or count
    return [round((i + 1) / (count + 1), 3) for i in range(count)]


def tries(**counts: int):
    """Parameters `kind` and `place`: so many places of each kind."""
    names = {"kill": "kill", "stop": "stop", "worker": "stop a worker", "fill": "fill", "twice": "twice"}
    pairs = [(names[kind], place) for kind, count in counts.items() for place in places(count)]
    return pytest.mark.parametrize("kind, place", pairs, ids=[f"{kind}-{place}" for kind, place in pairs])


def attempt(command: Command, kind: str, place: float, folder: Path, record_property) -> None:
    """One try, kept for the table that pytest prints at the end."""
    record_property("chaos", [command.name, kind])
    before = len(Child.started)
    try:
        record_property("chaos outcome", command.try_out(kind, place, folder))
    finally:
        for child in Child.started[before:]:
            child.end()
        shutil.rmtree(folder / "root", ignore_errors=True)
