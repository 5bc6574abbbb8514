"""Hands tasks to workers on the nodes of a cluster, and again to others when a node or a process is lost."""

from __future__ import annotations

import pickle
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import FaultError, UserError, one_line
from ..version import __version__
from .host import DONE, FAILED, IN_FILE, NEEDS, READY, Host
from .nodes import Node, Place, Seat
from .session import Cluster

ATTEMPTS = 3  # how often a task whose node or process is lost is handed out
_RESTARTS = 3  # workers of one place that end one after the other without a result
_TICK_S = 1.0  # the longest wait, so that a signal is honoured
_LOOK_S = 5.0  # between two looks at which nodes there are
_PAUSE_S = 2.0  # after a loss, in which the cluster finds out whether the node is lost too
_PATIENCE_S = 60.0  # after which a worker that has not begun is mentioned
_NAME = re.compile(r"[0-9a-f]{32}\.result", re.ASCII)  # of a result in the shared folder


@dataclass(frozen=True, slots=True)
class Lost:
    """Why a task has no result: it was handed out several times, and each time its node or its process was lost."""

    reason: str


@dataclass(eq=False)
class _Task:
    key: Any
    pickled: bytes
    attempts: int = 0


@dataclass(eq=False)
class _Lane:
    """A worker on a node. `about` is what it says of itself, once it has begun."""

    place: Place
    number: int  # of the place on its node
    actor: Any
    begun: Any
    since: float
    about: Any = None
    ready: bool = False
    admitted: bool = False
    mentioned: bool = False
    given: dict[Any, _Task] = field(default_factory=dict)


class Team:
    """The workers of one command. Use it in a `with` statement.

    Args:
        cluster: where they are.
        factory: called on the node with a `Seat`; makes an object with `about()`, which returns plain values, and
            `work(task)`, which returns bytes. It is pickled, so it is a class or function that nodes can import.
        places: what is taken of a node; nothing, if it is not to be used.
        threads: PyTorch threads of each computation.
        notify: called with a line on each node that is not used, or is lost.
        ahead: tasks that a worker has at once, those that wait included, which bounds what is in memory.
        concurrency: tasks that a worker does at once.
        admit: called with what workers say of themselves; for each a reason why it is not to be used, or "".
        together: wait for all that are there at the start, and admit them together.
        most: greatest number of workers; None for as many as there are places.
        again: how often a task whose node or process is lost is handed out.
        supplies: called once a worker needs them: bytes that each such worker gets in order, in pieces of some MB.
    """

    def __init__(
        self,
        cluster: Cluster,
        factory: Callable[[Seat], Any],
        places: Callable[[Node], Sequence[Place]],
        *,
        threads: int,
        notify: Callable[[str], None],
        ahead: int = 1,
        concurrency: int = 1,
        admit: Callable[[Sequence[Any]], Sequence[str]] = lambda abouts: [""] * len(abouts),
        together: bool = False,
        most: int | None = None,
        again: int = ATTEMPTS,
        supplies: Callable[[], Iterable[bytes]] = tuple,
    ) -> None:
        self._cluster, self._ray, self._notify = cluster, cluster.ray, notify
        self._places, self._admit, self._together = places, admit, together
        self._ahead, self._concurrency, self._most, self._again = ahead, concurrency, most, again
        self._threads, self._supplies = threads, supplies
        self._supplied: list[Any] | None = None
        self._factory = self._ray.put(pickle.dumps(factory))
        self._host = self._ray.remote(Host)
        self._lanes: list[_Lane] = []
        self._refused: dict[tuple[str, int], str] = {}  # by node and number of the place
        self._restarts: Counter[tuple[str, int]] = Counter()
        self._not_before: dict[str, float] = {}
        self._looked = -_LOOK_S
        self._lost: dict[str, str] = {}
        self.received = 0  # bytes of results

    def __enter__(self) -> Team:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for lane in self._lanes:
            self._kill(lane)
        self._lanes.clear()

    def run(self, tasks: Iterable[tuple[Any, Any]], stop: Callable[[], bool]) -> Iterator[tuple[Any, bytes | Lost]]:
        """Yields key and result of each (key, task), in order of completion.

        Tasks are taken when a worker is free. Those that have been handed out are waited for, also after `stop`.

        Raises:
            UserError: no node can be used, or a worker raised it.
            FaultError: no node is left, or a worker failed otherwise.
        """
        waiting, again = iter(tasks), deque[_Task]()
        more = True
        while True:
            self._look()
            if stop():
                more = False
                again.clear()
            while (lane := self._free()) is not None and (again or more):
                if again:
                    task = again.popleft()
                else:
                    key, given = next(waiting, (_END, None))
                    if key is _END:
                        more = False
                        break
                    task = _Task(key, pickle.dumps(given))
                task.attempts += 1
                lane.given[lane.actor.work.remote(task.pickled)] = task
            if not (again or more or any(lane.given for lane in self._lanes)):
                return
            for ref in self._wait():
                yield from self._settle(ref, again)

    def _wait(self) -> list[Any]:
        """What has ended, after a second at most."""
        refs = [ref for lane in self._lanes for ref in (lane.given if lane.ready else [lane.begun])]
        if not refs:
            if not self._lanes and not self._coming():
                self._nobody()
            time.sleep(min(_TICK_S, 0.2))
            return []
        now = time.monotonic()
        for lane in self._lanes:
            if not lane.ready and not lane.mentioned and now - lane.since > _PATIENCE_S:
                lane.mentioned = True
                self._notify(f"{lane.place.node.name}: has not begun yet; other work may have its CPUs or memory")
        return self._ray.wait(refs, num_returns=1, timeout=_TICK_S)[0]

    def _settle(self, ref: Any, again: deque[_Task]) -> Iterator[tuple[Any, bytes | Lost]]:
        """Takes an answer: of a worker that has begun, or of a task."""
        lane = next(lane for lane in self._lanes if ref == lane.begun or ref in lane.given)
        try:
            kind, value = self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:  # no answer, but an exception: not from our code
            if ref in lane.given:
                raise FaultError(f"{lane.place.node.name}: {one_line(error)}") from None
            self._refuse(lane, f"cannot begin: {_last_line(error)}")
            return
        except self._ray.exceptions.RayError as error:
            yield from self._lose(lane, error, again)
            return
        if not lane.ready:
            if kind == NEEDS:
                self._supply(lane)
                return
            if kind != READY:
                self._refuse(lane, str(value))
                return
            lane.ready, lane.about = True, value
            self._consider()
            return
        task = lane.given.pop(ref)
        self._restarts.pop(self._at(lane), None)
        if kind == FAILED:
            users, message = value
            raise (UserError if users else FaultError)(f"{lane.place.node.name}: {message}")
        result: bytes = value if kind == DONE else self._from_file(lane, kind, value)
        self.received += len(result)
        yield task.key, result

    def _supply(self, lane: _Lane) -> None:
        """Sends what a worker needs before it can begin; all nodes get the same objects."""
        if self._supplied is None:
            self._supplied = [self._ray.put(piece) for piece in self._supplies()]
        for number, piece in enumerate(self._supplied):
            lane.begun = lane.actor.supply.remote(number, len(self._supplied), piece)

    def _from_file(self, lane: _Lane, kind: str, name: object) -> bytes:
        """A result in the shared folder, which is removed."""
        shared = self._cluster.shared
        if kind != IN_FILE or shared is None or not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise FaultError(f"{lane.place.node.name}: answered {kind!r} {name!r}, which is no result")
        path: Path = shared / name
        found = path.read_bytes()
        path.unlink()
        return found

    def _lose(self, lane: _Lane, error: Exception, again: deque[_Task]) -> Iterator[tuple[Any, Lost]]:
        """Hands the tasks of a lost worker out again, those that have been given out often enough excepted."""
        node = lane.place.node
        self._lanes.remove(lane)
        self._kill(lane)
        why = _why(error)
        self._lost[node.id] = f"{node.name}: {why}"
        self._not_before[node.id] = time.monotonic() + _PAUSE_S
        self._restarts[self._at(lane)] += 1
        redo = [task for task in lane.given.values() if task.attempts < self._again]
        count = f"; what it had is done again elsewhere ({len(redo)})" if redo else ""
        if lane.ready:  # else it was begun on a node that was about to be lost
            self._notify(f"note: {node.name}: lost: {why}{count}")
        again.extendleft(reversed(redo))
        for task in lane.given.values():
            if task.attempts >= self._again:
                yield task.key, Lost(f"{why}, {task.attempts} times, last on {node.name}")

    def _refuse(self, lane: _Lane, reason: str) -> None:
        self._lanes.remove(lane)
        self._kill(lane)
        self._refused[self._at(lane)] = f"{lane.place.node.name}: {reason}"
        self._notify(f"note: {lane.place.node.name}: not used: {reason}")

    def _consider(self) -> None:
        """Admits workers that have begun, or not."""
        fresh = [lane for lane in self._lanes if lane.ready and not lane.admitted]
        if self._together and not any(lane.admitted for lane in self._lanes):
            if any(not lane.ready for lane in self._lanes):
                return
        for lane, reason in zip(fresh, self._admit([lane.about for lane in fresh]), strict=True):
            if reason:
                self._refuse(lane, reason)
            lane.admitted = True

    def _free(self) -> _Lane | None:
        """The worker with the least to do, if one has room for another task."""
        free = [lane for lane in self._lanes if lane.admitted and len(lane.given) < self._ahead]
        return min(free, key=lambda lane: len(lane.given) / max(1, lane.place.cpus), default=None)

    def _look(self) -> None:
        """Starts workers on nodes that have none: at the beginning, on nodes that have come, and after a loss."""
        now = time.monotonic()
        if now - self._looked < (_LOOK_S if self._lanes else _TICK_S):
            return
        self._looked = now
        taken = {self._at(lane) for lane in self._lanes}
        found = [one for node in self._cluster.nodes() for one in enumerate(self._places(node))]
        for number, place in sorted(found, key=lambda one: one[0]):  # spread over the nodes
            at = place.node.id, number
            if self._most is not None and len(self._lanes) >= self._most:
                break
            if at in taken or at in self._refused or self._restarts[at] >= _RESTARTS:
                continue
            if self._not_before.get(place.node.id, now) <= now:
                self._start(place, number)
        if self._together and self._lanes and not any(lane.admitted for lane in self._lanes):
            self._consider()

    def _start(self, place: Place, number: int) -> None:
        strategy = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(place.node.id, soft=False)
        actor = self._host.options(
            num_cpus=place.cpus,
            num_gpus=place.gpus,
            memory=place.memory or None,
            max_restarts=0,
            max_concurrency=self._concurrency,
            scheduling_strategy=strategy,
        ).remote()
        seat = Seat(place.cpus, self._threads, Path.cwd(), self._cluster.shared)
        begun = actor.begin.remote(__version__, self._factory, pickle.dumps(seat))
        lane = _Lane(place, number, actor, begun, time.monotonic())
        self._lanes.append(lane)

    def _at(self, lane: _Lane) -> tuple[str, int]:
        return lane.place.node.id, lane.number

    def _kill(self, lane: _Lane) -> None:
        try:
            self._ray.kill(lane.actor)
        except Exception:  # it is gone already, or Ray is
            pass

    def _coming(self) -> bool:
        """Whether a worker may still come on a node that is alive."""
        return any(
            (node.id, number) not in self._refused and self._restarts[node.id, number] < _RESTARTS
            for node in self._cluster.nodes()
            for number, _ in enumerate(self._places(node))
        )

    def _nobody(self) -> None:
        """Raises what is to be said when no worker is left."""
        text = self._cluster.engine.text
        if self._lost:
            raise FaultError(f"--engine {text}: no node is left: {'; '.join(self._lost.values())}")
        if self._refused:
            raise UserError(f"--engine {text}: no node can be used: {'; '.join(dict.fromkeys(self._refused.values()))}")
        raise UserError(f"--engine {text}: no node of {self._cluster.where} offers what is needed")


_END = object()


def _why(error: Exception) -> str:
    """What became of a worker, from Ray's paragraph on it."""
    text = str(error)
    if "node" in text and ("died" in text or "dead" in text) and "node was" in text or "its node has died" in text:
        return "its node was lost"
    if "memory" in text.lower() and "OOM" in text:
        return "its process was ended as memory ran out"
    return "its process or its node was lost"


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
