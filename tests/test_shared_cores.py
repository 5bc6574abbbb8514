"""The cores of a run, shared by its workers and its networks."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from erc_toolkit.extract.encoders.batching import Batches
from erc_toolkit.toolkit.base.processes import Failure, run_tasks
from erc_toolkit.toolkit.base.shared_cores import Cores, Share, share

# These functions run in worker processes.


def while_alone(job: tuple[Path, int]) -> bool:
    """Whether no other task ran at the same time; the first one dies once."""
    folder, number = job
    if number == 0 and not (died := folder / "died").exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    mark = folder / f"running-{number}"
    mark.touch()
    time.sleep(0.05)
    alone = len(list(folder.glob("running-*"))) == 1
    mark.unlink()
    return alone


def fail(_: object) -> None:
    raise ValueError("on purpose")


class _Counter:
    """The most that were within it at a time."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self.now -= 1


def test_no_more_compute_than_there_are_cores():
    cores, inside = Cores(3, 3), _Counter()

    def compute(rank: int) -> None:
        for _ in range(20):
            with cores.taken(1, rank), inside:
                time.sleep(0.001)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(compute, [0, 1, 2, 0, 1, 2, 0, 1]))
    assert inside.most == 3
    with cores.taken(3, 0):  # all have come back
        pass


def test_lower_ranks_come_first_and_nobody_waits_for_several_cores_at_once():
    cores, order = Cores(2, 2), []
    free = [threading.Event(), threading.Event()]
    cores.ask(1, 0, free[0].set)
    cores.ask(1, 0, free[1].set)
    assert all(one.is_set() for one in free)
    for rank, number, name in ((2, 1, "text"), (1, 1, "media"), (0, 2, "network")):
        cores.ask(number, rank, lambda name=name: order.append(name))
    assert order == []
    cores.give(1)
    assert order == ["network"]  # with two cores, of which one was free
    cores.give(1)
    assert order == ["network"]  # the second is only now no longer used by two
    cores.give(2)
    assert order == ["network", "media", "text"]


def test_tasks_have_a_core_each_and_give_it_back_when_their_worker_dies(tmp_path):
    cores = Cores(1, 1)
    jobs = [(tmp_path, number) for number in range(6)]
    found = dict(run_tasks(jobs, while_alone, 3, cores=(cores, 1)))
    assert found == dict.fromkeys(jobs, True)
    [(_, failed)] = run_tasks([1], fail, 2, cores=(cores, 1))
    assert isinstance(failed, Failure)
    with cores.taken(1, 0):
        pass


def test_a_pool_that_is_closed_gives_back_what_it_had_and_what_comes_later(tmp_path):
    cores = Cores(1, 1)
    found = run_tasks([(tmp_path, number) for number in range(1, 9)], while_alone, 2, cores=(cores, 1))
    next(found)
    found.close()
    with cores.taken(1, 0):
        waiting = run_tasks([(tmp_path, 10)], while_alone, 1, cores=(cores, 1))
        thread = threading.Thread(target=lambda: next(waiting))
        thread.start()
    thread.join(60)
    assert not thread.is_alive()
    waiting.close()
    with cores.taken(1, 0):
        pass


@pytest.fixture
def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.Tanh(), torch.nn.Linear(64, 3))


def run(batches: Batches, network: torch.nn.Module, items: np.ndarray, inside: _Counter | None = None) -> np.ndarray:
    found, preparing = np.zeros((len(items), 3), np.float32), threading.get_ident()

    def prepare(batch: range) -> dict[str, torch.Tensor]:
        assert threading.get_ident() == preparing  # tokenizers are not made for several threads
        return {"x": torch.from_numpy(items[batch.start : batch.stop])}

    def compute(tensors) -> torch.Tensor:
        with inside or _Counter():
            time.sleep(0.002)
            return network(tensors["x"])

    last = 0
    for batch, rows in batches.run([1] * len(items), prepare, compute):
        assert batch.start == last
        last = batch.stop
        found[batch.start : batch.stop] = rows
    assert last == len(items)
    return found


def test_batches_side_by_side_are_those_one_after_the_other(network):
    items = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    batches = Batches("a network", "items", 3, torch.device("cpu"), "float32", "")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone, inside = run(batches, network, items), _Counter()
        own = Share(Cores(2, 2), 0)
        with own.used():
            assert np.array_equal(run(batches, network, items, inside), alone)
        assert share() is None
        assert inside.most == 2
        assert 0.03 < own.busy < 30  # 17 batches of at least 2 ms
        batches.spread = True  # over several devices, whose pieces are moved: one batch at a time
        with own.used():
            assert np.array_equal(run(batches, network, items, inside := _Counter()), alone)
        assert inside.most == 1
        own.close()
    finally:
        torch.set_num_threads(before)


def test_an_error_in_a_batch_is_that_of_the_caller_and_frees_its_core(network):
    batches = Batches("a network", "items", 1, torch.device("cpu"), "float32", "")
    cores = Cores(2, 2)
    own = Share(cores, 0)
    with own.used(), pytest.raises(RuntimeError):
        run(batches, network, np.zeros((9, 7), np.float32))  # seven columns, not eight
    own.close()
    with cores.taken(1, 0), cores.taken(1, 0):
        pass


def test_lanes_and_threads_are_a_matter_of_the_machine_and_of_the_work():
    own = Share(Cores(8, 8), 0)
    assert [own.lanes(pieces) for pieces in (0, 1, 2, 3, 8, 100)] == [(1, 8), (1, 8), (2, 4), (3, 2), (8, 1), (8, 1)]
    own.close()
    one = Share(Cores(4, 1), 0)  # OMP_NUM_THREADS=1
    assert one.lanes(100) == (1, 1)
    one.close()


def test_a_network_that_nothing_is_known_of_has_all_cores_and_asks_for_no_more(network):
    cores = Cores(2, 2)
    own = Share(cores, 0)
    batches = Batches("a network", "items", 3, torch.device("cpu"), "float32", "")
    with own.used(), own.all_threads():
        assert share() is None
        run(batches, network, np.zeros((9, 8), np.float32))  # would wait for itself for ever
    assert own.busy > 0
    own.close()
