"""One writer for an output, and temporary files: kills, equal process numbers, file systems without locks."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from process_support import start_until
from test_train_support import write_store

from erc_toolkit.toolkit.base import lock
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.base.files import atomic_path, remove_leftovers, require_space, write_atomically
from erc_toolkit.toolkit.base.lock import locked

_HOLD = """
import sys
from pathlib import Path
from erc_toolkit.toolkit.base.files import atomic_path
from erc_toolkit.toolkit.base.lock import locked
out = Path(sys.argv[2])
if sys.argv[1] == "lock":
    with locked(out, "extract"):
        print("held", flush=True)
        input()
else:
    with atomic_path(out) as temporary:
        temporary.write_bytes(b"half")
        print(temporary.name, flush=True)
        input()
        temporary.write_bytes(b"whole")
"""


def holder(what: str, out: Path) -> tuple[subprocess.Popen, str]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, what, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(out: Path) -> str:
    with pytest.raises(UserError) as raised, locked(out, "train"):
        pass
    return raised.value.message


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_a_second_writer_is_told_who_the_first_is_and_gets_the_lock_of_a_killed_one(kind, tmp_path):
    out = tmp_path / "out"
    if kind != "file":
        out.mkdir()
    other = out
    if kind == "link":
        other = tmp_path / "link"
        other.symlink_to(out)
    process, _ = holder("lock", out)
    message = refused(other)
    for fact in (str(other), str(process.pid), os.uname().nodename, "extract", "since"):
        assert fact in message
    process.kill()
    process.communicate()
    with locked(other, "train"):
        assert f"process {os.getpid()}" in refused(out)  # within a process, too
    assert not list(tmp_path.glob(".*"))


def test_a_description_without_a_lock_holds_nobody_up(tmp_path):
    """As a process of another container, or before a restart, left it: with the number of a living process."""
    own = {"what": "train", "host": os.uname().nodename, "pid": os.getpid(), "since": "2020-01-01 00:00:00 +0000"}
    (tmp_path / ".out.lock").write_text(json.dumps(own))
    with locked(tmp_path / "out", "train"):
        assert json.loads((tmp_path / ".out.lock").read_text())["since"] > "2020-01-02"
    assert not names(tmp_path)


def test_children_do_not_keep_a_lock(tmp_path):
    program = (
        "import subprocess, sys, os, signal\nfrom pathlib import Path\n"
        "from erc_toolkit.toolkit.base.lock import locked\n"
        "with locked(Path(sys.argv[1]), 'train'):\n"
        "    print(subprocess.Popen(['sleep', '100'], stdout=subprocess.DEVNULL, close_fds=False).pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path / "out"], stdout=subprocess.PIPE, text=True)
    child = int(done.stdout)
    try:
        with locked(tmp_path / "out", "train"):
            assert Path(f"/proc/{child}").exists()
    finally:
        os.kill(child, signal.SIGKILL)


def test_many_writers_take_turns(tmp_path):
    """Removing the lock's file lets nobody in while somebody holds it."""
    inside, errors, done = [], [], []

    def compete() -> None:
        while len(done) < 200:
            try:
                with locked(tmp_path / "out", "train"):
                    inside.append(1)
                    if len(inside) > 1:
                        errors.append("two at once")
                    done.append(1)
                    inside.pop()
            except UserError:
                continue

    threads = [threading.Thread(target=compete) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and not names(tmp_path)


def no_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_without_locks_of_the_file_system_the_holder_touches_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    monkeypatch.setattr(lock, "BEAT_S", 0.01)
    path, out = tmp_path / ".out.lock", tmp_path / "out"
    with locked(out, "train"):
        assert f"process {os.getpid()}" in refused(out)
        os.utime(path, (0, 0))
        while path.stat().st_mtime == 0:  # until it is touched again
            pass
        assert "train" in refused(out)
    assert not names(tmp_path)
    path.write_text(json.dumps({"what": "train", "host": "h", "pid": os.getpid(), "since": "then"}))
    assert "on h" in refused(out)
    os.utime(path, (0, 0))  # its holder has been dead for long
    with locked(out, "train"):
        pass
    assert not names(tmp_path)
    write_atomically(out, b"x")
    assert names(tmp_path) == ["out"]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    assert str(tmp_path / "none") in refused(tmp_path / "none" / "out")


def test_a_folder_in_one_that_cannot_be_written_is_locked_inside(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(lock.os, "access", lambda path, mode: Path(path) != tmp_path)
    with locked(tmp_path / "out", "train"):
        assert names(tmp_path / "out") == [lock.INSIDE]


def test_what_a_killed_writer_left_is_removed_by_the_next_and_what_a_living_one_writes_is_not(tmp_path):
    out = tmp_path / "out.json"
    dead, left = holder("file", out)
    dead.kill()
    dead.communicate()
    assert left in names(tmp_path) and not out.exists()
    living, own = holder("file", out)
    assert own == left  # of which nothing is left
    write_atomically(out, b"mine")  # meanwhile
    assert out.read_bytes() == b"mine" and own in names(tmp_path)
    remove_leftovers(out)
    require_space(out, 100)
    assert own in names(tmp_path)
    living.communicate("\n")
    assert living.returncode == 0 and out.read_bytes() == b"whole" and names(tmp_path) == ["out.json"]
    dead, left = holder("file", out)
    dead.kill()
    dead.communicate()
    remove_leftovers(out)
    assert names(tmp_path) == ["out.json"] and out.read_bytes() == b"whole"


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "out") as temporary:
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert not names(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("command", [["train"], ["train", "--seeds", "2"], ["study", "--grid", "model.window=0,1"]])
def test_the_same_training_twice_at_once(command, tmp_path):
    """The first is stopped at a fixed point, then killed."""
    store, out = write_store(tmp_path / "s.h5"), tmp_path / "runs" / "out"
    arguments = [command[0], store, "--recipe", "demo", "--out", out, *command[1:], "--device", "cpu"]
    arguments += ["--set", "train.epochs=1"]
    first = start_until(arguments, "finish", r"config\.yaml$|study\.json$", 1, signal.SIGSTOP, tmp_path / "errors")
    os.waitpid(first.pid, os.WUNTRACED)
    again = [sys.executable, "-m", "erc_toolkit", *map(str, arguments)]
    try:
        second = subprocess.run(again, capture_output=True, text=True)
        assert second.returncode == 1 and len(second.stderr.splitlines()) == 1, second.stderr
        assert str(first.pid) in second.stderr and str(out) in second.stderr
    finally:
        first.kill()
    third = subprocess.run([*again, *(["--resume"] if command[0] == "train" else [])], capture_output=True, text=True)
    assert third.returncode == 0, third.stderr
    assert not [p.name for p in out.parent.rglob(".*")]
