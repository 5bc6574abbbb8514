"""Work that reads bytes when it needs them, for a caller who has them when they come."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Pulled(Generic[T]):
    """Runs a generator that reads a stream in a thread of its own, but never at the same time as the caller: it goes on
    only within `give` and `end`, so that what it yields depends on the bytes alone.

    Args:
        work: called with a function `read(n)` that returns 1 to n bytes, or none at the end.
    """

    def __init__(self, work: Callable[[Callable[[int], bytes]], Iterator[T]]) -> None:
        self._work = work
        self._held, self._ended, self._closed = b"", False, False
        self._go: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._said: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def give(self, data: bytes) -> Iterator[T]:
        """Takes bytes; yields what the work yields until it needs more. The iterator has to be used up.

        Raises:
            Exception: whatever the work raises.
        """
        if self._closed:
            return
        self._held += data
        yield from self._resume()

    def end(self) -> Iterator[T]:
        """The stream has ended; yields the rest."""
        self._ended = True
        yield from self._resume()

    @property
    def is_over(self) -> bool:
        """Whether the work has ended, and takes nothing more."""
        return self._closed

    def close(self) -> None:
        """Ends the work; what it still yields is lost."""
        self._closed = self._ended = True
        if self._thread is not None:
            self._go.put(None)
            self._thread.join(timeout=10)

    def _resume(self) -> Iterator[T]:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="decodes the stream", daemon=True)
            self._thread.start()
        while not self._closed:
            self._go.put(None)
            kind, value = self._said.get()
            if kind == "item":
                yield value
                continue
            self._closed = kind in ("done", "fault")
            if kind == "fault":
                raise value
            return

    def _run(self) -> None:
        self._go.get()
        try:
            for one in self._work(self._read):
                if self._closed:
                    break
                self._said.put(("item", one))
                self._go.get()
        except BaseException as error:  # goes to the caller
            self._said.put(("fault", error))
        else:
            self._said.put(("done", None))

    def _read(self, most: int) -> bytes:
        while not self._held and not self._ended:
            self._said.put(("hungry", None))
            self._go.get()
        part, self._held = self._held[:most], self._held[most:]
        return part
