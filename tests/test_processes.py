"""The worker pool: failing tasks, their effect on others, and workers that lose their parent."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from erc_toolkit.toolkit.base.errors import FaultError, UserError
from erc_toolkit.toolkit.base.import_path import import_path
from erc_toolkit.toolkit.base.processes import Failure, run_tasks, work_off

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


_PARENT = """
import sys
from test_processes import linger
from erc_toolkit.toolkit.base.processes import run_tasks
for _, pid in run_tasks([0.0, 0.0, 100.0, 100.0, 100.0], linger, 2, fresh=sys.argv[1] == "fresh"):
    print(pid, flush=True)
"""


def linger(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


@pytest.mark.parametrize("how", ["fresh", "forked"])
def test_workers_die_with_their_parent_even_when_it_is_killed(how):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, how], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    workers = {int(parent.stdout.readline()) for _ in range(2)}
    assert all(Path(f"/proc/{pid}").exists() for pid in workers)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    parent.stdout.close()
