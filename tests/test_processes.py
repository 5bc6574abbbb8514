"""The worker pool: failing tasks, their effect on others, and processes that lose their parent."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from process_support import left_over, members

from erc_toolkit.toolkit.base.errors import FaultError, UserError
from erc_toolkit.toolkit.base.import_path import import_path
from erc_toolkit.toolkit.base.processes import Failure, memory, pool, run_tasks, work_off

# These functions run in worker processes.


def behave(task: str) -> object:
    if task == "raise":
        raise ValueError("on\npurpose")
    if task == "refuse":
        raise UserError("cannot")
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "exit":
        sys.exit(7)
    if task == "hang":
        threading.Event().wait()
    if task == "unpicklable":
        return threading.Lock()
    return task.upper()


def die_once(mark: Path) -> str:
    """Kills its worker the first time."""
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def wait_for(mark: Path) -> bool:
    """Whether `mark` exists within ten seconds."""
    deadline = time.monotonic() + 10
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    return mark.exists()


def touch(mark: Path) -> bool:
    mark.touch()
    return True


def call(task) -> object:
    function, *arguments = task
    return function(*arguments)


def process_id(_: object) -> int:
    return os.getpid()


def refuse_to_start() -> None:
    raise UserError("model.bin: is missing")


def fail_to_start() -> None:
    import erc_toolkit.no_such_module  # noqa: F401


def exit_at_start() -> None:
    sys.exit(3)


def surroundings(_: object) -> tuple[list[str], str | None, bool, object]:
    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    main = getattr(sys.modules["__main__"], "__file__", None)
    return sys.path, os.environ.get("CUDA_VISIBLE_DEVICES"), ignored, main


@pytest.mark.parametrize("fresh", [False, True])
def test_a_failing_task_fails_alone_with_its_reason(fresh):
    tasks = ["a", "raise", "b", "refuse", "c", "die", "d", "exit", "e", "hang", "f", "unpicklable", "g"]
    found = list(run_tasks(tasks, behave, 2, time_limit=1.5, fresh=fresh, retry=not fresh))
    assert sorted(task for task, _ in found) == sorted(tasks)
    results = dict(found)
    assert all(results[task] == task.upper() for task in "abcdefg")
    assert results["refuse"] == Failure("cannot")
    assert results["raise"].reason.startswith("ValueError: on purpose (behave in ")
    assert "SIGKILL" in results["die"].reason and "exit status 7" in results["exit"].reason
    assert "1.5 s" in results["hang"].reason
    assert results["unpicklable"].reason.startswith("TypeError: ")


def test_a_task_whose_worker_died_is_retried_once(tmp_path):
    assert list(run_tasks([tmp_path / "one"], die_once, 2)) == [(tmp_path / "one", "done")]
    [(_, result)] = run_tasks([tmp_path / "two"], die_once, 2, retry=False)
    assert isinstance(result, Failure) and "SIGKILL" in result.reason


def test_results_arrive_in_order_of_completion_and_workers_continue_while_the_caller_is_busy(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    tasks = [(wait_for, first), (touch, second), (touch, first)]
    found = run_tasks(tasks, call, 2)
    task, _ = next(found)
    assert task[0] is touch
    assert wait_for(first)  # no results are requested meanwhile
    assert all(result is True for _, result in found)


def test_tasks_are_taken_while_their_weight_is_below_the_limit():
    taken = 0

    def tasks():
        nonlocal taken
        for _ in range(30):
            taken += 1
            yield "x"

    for done, _ in enumerate(run_tasks(tasks(), behave, 2, weight=lambda task: 3, most_weight=10), 1):
        assert taken <= done + 4
    assert done == taken == 30


@pytest.mark.parametrize(
    "set_up, error, fact",
    [
        (refuse_to_start, UserError, "model.bin"),
        (fail_to_start, FaultError, "no_such_module"),
        (exit_at_start, FaultError, "exit status 3"),
    ],
)
def test_workers_that_cannot_start_end_the_run(set_up, error, fact):
    with pytest.raises(error) as raised:
        list(run_tasks(["a"] * 20, behave, 2, set_up=set_up))
    assert fact in str(raised.value) and type(raised.value) is error


def test_a_function_that_workers_cannot_import_ends_the_run(monkeypatch):
    monkeypatch.setattr("erc_toolkit.toolkit.base.import_path.sys.path", [p for p in sys.path if "tests" not in p])
    with pytest.raises(FaultError) as raised:
        list(run_tasks(["a"] * 20, behave, 2, fresh=True))
    assert __name__ in str(raised.value)


def test_workers_end_with_the_loop():
    found = run_tasks(range(100), process_id, 2)
    workers = {next(found)[1] for _ in range(4)}
    found.close()
    assert workers and not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.parametrize("fresh", [False, True])
def test_workers_import_nothing_from_the_working_directory(fresh, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path, ""])
    [(_, (path, _, ignored, main))] = run_tasks([0], surroundings, 1, fresh=fresh)
    assert "" not in path and str(tmp_path) not in path and str(Path(__file__).parent) in path
    assert ignored and main is None


@pytest.mark.parametrize("fresh", [False, True])
def test_workers_have_the_environment_of_the_moment(fresh, monkeypatch):
    """Also those of a server that was started before."""
    list(run_tasks([0], surroundings, 1, fresh=fresh))
    monkeypatch.setenv("ERC_SET_LATER", "yes")
    monkeypatch.delenv("HOME")
    [(_, found)] = run_tasks([("ERC_SET_LATER", "HOME")], environment, 1, fresh=fresh)
    assert found == ["yes", None]


def test_explicitly_added_directories_are_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    library = os.path.dirname(os.__file__)
    before, behind = str(tmp_path), str(tmp_path / "site")
    monkeypatch.setattr(sys, "path", [before, "", "relative", library, behind])
    assert import_path() == [library, behind]
    monkeypatch.setattr(sys, "path", [before, library, before])  # an editable install's .pth file
    assert import_path() == [library, before]
    monkeypatch.setattr(sys, "path", [before, library])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", before]))
    assert import_path() == [before, library]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "."]))
    assert import_path() == [library]


def test_every_worker_has_its_gpu():
    seen = {result[1] for _, result in work_off(functools.partial(_slow, 0.2), [(0,)] * 8, 2, 1, gpus=2)}
    assert seen == {"0", "1"}


def _slow(seconds: float, task: object) -> object:
    time.sleep(seconds)
    return surroundings(task)


def environment(names: tuple[str, ...]) -> list[str | None]:
    return [os.environ.get(name) for name in names]


_PARENT = """
import sys
from test_processes import linger
from erc_toolkit.toolkit.base.processes import run_tasks
for _, pid in run_tasks([0.0, 0.0, 100.0, 100.0, 100.0], linger, 2, fresh=sys.argv[1] == "fresh"):
    print(pid, flush=True)
"""
_PRELOADING = """
import os, signal
from multiprocessing import forkserver
from erc_toolkit.toolkit.base.processes import preload
preload("test_processes_slow_import")
print(forkserver._forkserver._forkserver_pid, flush=True)
input()
"""


def linger(seconds: float) -> int:
    """Waits in C code that does not let any other thread run."""
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return os.getpid()


def started(program: str, *arguments: str, folder: Path | None = None) -> subprocess.Popen:
    path = os.pathsep.join(str(p) for p in (Path(__file__).parent, folder) if p)
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
        start_new_session=True,
    )


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("how", ["fresh", "forked"])
def test_workers_die_with_their_parent_even_when_it_is_killed(how, stopped):
    """Workers that hang in C code, or are stopped."""
    parent = started(_PARENT, how)
    assert parent.stdout is not None
    workers = {int(parent.stdout.readline()) for _ in range(2)}
    assert all(Path(f"/proc/{pid}").exists() for pid in workers)
    if stopped:
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    assert not left_over(parent.pid)
    parent.stdout.close()


def test_the_fork_server_dies_while_it_is_importing(tmp_path):
    (tmp_path / "test_processes_slow_import.py").write_text(
        f"import ctypes, pathlib\npathlib.Path({str(tmp_path / 'mark')!r}).touch()\nctypes.PyDLL(None).sleep(100)\n"
    )
    parent = started(_PRELOADING, folder=tmp_path)
    assert wait_for(tmp_path / "mark")
    parent.kill()
    parent.communicate()
    assert not left_over(parent.pid)


def test_programs_die_with_their_parent():
    program = "from erc_toolkit.toolkit.base.processes import run_program; run_program(['sleep', '100'])"
    parent = started(program)
    deadline = time.monotonic() + 60
    while len(members(parent.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(members(parent.pid)) == 2
    time.sleep(0.2)  # the moment between the start of the program and its tie to the parent
    parent.kill()
    parent.communicate()
    assert not left_over(parent.pid)


# A parent that keeps the time.


def stop(task: str) -> str:
    if task.startswith("stop"):
        os.kill(os.getpid(), signal.SIGSTOP)
    return task


def hold(task: str) -> str:
    if task == "hold":
        ctypes.PyDLL(None).sleep(100)
    return task


@pytest.mark.parametrize("work, bad", [(stop, ["stop 1", "stop 2"]), (hold, ["hold"])])
def test_stopped_and_hanging_workers_end_after_the_limit(work, bad):
    tasks = ["a", *bad, "b", "c", "d"]
    found = dict(run_tasks(tasks, work, 2, time_limit=1.5))
    assert all(found[task] == task for task in "abcd")
    assert all("longer than 1.5 s" in found[task].reason for task in bad)


def big(task: tuple[str, Path]) -> bytes | int:
    what, mark = task
    if what == "id":
        return os.getpid()
    mark.write_text(str(os.getpid()))
    return bytes(50_000_000)


def test_a_worker_that_is_stopped_while_it_is_idle_or_sends_does_not_stop_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "_PIPE_S", 1)
    found = run_tasks([("id", tmp_path / "a")] * 3, big, 1, time_limit=1.0, most_weight=1)
    _, first = next(found)
    os.kill(first, signal.SIGSTOP)  # between two tasks
    assert [isinstance(result, Failure) for _, result in found] == [True, False]

    def stop_sender() -> None:
        assert wait_for(tmp_path / "b")
        os.kill(int((tmp_path / "b").read_text()), signal.SIGSTOP)

    # Stopped while it computes or sends: at the latest when it is repeated alone, it gets through.
    thread = threading.Thread(target=stop_sender)
    thread.start()
    [(_, result)] = run_tasks([("big", tmp_path / "b")], big, 1, time_limit=3.0)
    thread.join()
    assert isinstance(result, Failure) or len(result) == 50_000_000


# Memory.


def devour(task: int) -> int:
    """Takes memory without end, in the way that its number says."""
    taken = []
    while task:
        taken.append(bytearray(8 << 20))
    return os.getpid()


def devour_or_die(task: int) -> int:
    """Takes memory without end; is killed at 300 MB, as the kernel would, unless it gets an error before."""
    if not task:
        return os.getpid()
    taken = []
    while True:
        taken.append(bytearray(8 << 20))
        if len(taken) > 40:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits on memory")
def test_a_task_that_needs_too_much_memory_fails_alone_and_says_so():
    found = dict(run_tasks([0, 1], devour, 2, memory=200 << 20))
    assert isinstance(found[0], int)
    assert "more memory than there is" in found[1].reason and "MemoryError" in found[1].reason


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits on memory")
def test_a_task_whose_worker_was_killed_for_its_memory_is_repeated_within_a_bound(monkeypatch):
    monkeypatch.setattr("erc_toolkit.toolkit.base.processes.memory.available", lambda: 200 << 20)
    found = dict(run_tasks([0, 1], devour_or_die, 2))
    assert isinstance(found[0], int) and "MemoryError" in found[1].reason
    found = dict(run_tasks([0, 1], devour_or_die, 2, retry=False))
    assert "memory" in found[1].reason and "SIGKILL" in found[1].reason


def killable(_: object) -> int:
    return int(Path("/proc/self/oom_score_adj").read_text())


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="needs Linux")
def test_the_kernel_ends_workers_before_their_parent_when_memory_runs_out():
    assert dict(run_tasks([0], killable, 1)) == {0: 1000}


def test_available_memory_is_that_of_the_tightest_control_group(tmp_path, monkeypatch):
    (tmp_path / "a/b").mkdir(parents=True)
    for folder, most, used in ((tmp_path / "a", 5 << 20, 3 << 20), (tmp_path / "a/b", 9 << 20, 1 << 20)):
        (folder / "memory.max").write_text(f"{most}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text("anon 1\ninactive_file 1048576\n")
    assert memory._left_in(tmp_path / "a", "memory.max", "memory.current", "inactive_file") == 3 << 20
    assert memory._left_in(tmp_path, "memory.max", "memory.current", "inactive_file") is None
    assert 0 < memory.available() <= psutil.virtual_memory().total
