"""Runs the fuzzers of tests/fuzzing: random inputs for each parser, none of which may fail or take more than a second.

    python tests/fuzz.py --inputs 1000000 --jobs 2              # every parser
    python tests/fuzz.py --inputs 10000 manifest_csv            # some
    python tests/fuzz.py --only manifest_csv:123                # one input again, with its traceback

A module of tests/fuzzing has `PARSERS`, name to a function that makes one input from a `random.Random` and parses it.
`UserError` is a parser's right answer to bad input; any other exception is a failure. An input is determined by the
name and its number.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent))

from erc_toolkit.toolkit.base.errors import UserError

LIMIT_S = 1.0  # of one input, in time on the processor, which other work on the machine does not lengthen
CHUNK = 1000  # inputs of one task
_SHOWN = 5

Parser = Callable[[random.Random], None]


class TooSlow(BaseException):
    """One input took longer than the limit. No `Exception`, which a parser might catch."""


@dataclass
class Outcome:
    """Of some inputs of one parser: their number, the failures as (number of the input, error), the slowest one."""

    inputs: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)
    slowest_s: float = 0.0
    slowest: int = -1

    def add(self, other: Outcome) -> None:
        self.inputs += other.inputs
        self.failures += other.failures
        if other.slowest_s > self.slowest_s:
            self.slowest_s, self.slowest = other.slowest_s, other.slowest


def parsers() -> dict[str, Parser]:
    """All parsers by name."""
    import fuzzing

    found: dict[str, Parser] = {}
    for module in sorted(one.name for one in pkgutil.iter_modules(fuzzing.__path__)):
        # Modules without PARSERS are helpers.
        for name, parser in getattr(importlib.import_module(f"fuzzing.{module}"), "PARSERS", {}).items():
            if name in found:
                raise SystemExit(f"tests/fuzzing: two parsers are called {name}")
            found[name] = parser
    return found


def run_inputs(name: str, first: int, count: int, limit_s: float = LIMIT_S) -> Outcome:
    """Runs the inputs from number `first` on, in the main thread of this process."""
    parser, outcome = parsers()[name], Outcome(count)
    before = signal.signal(signal.SIGPROF, _stop)
    try:
        for number in range(first, first + count):
            began = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, limit_s)
            try:
                parser(_random(name, number))
            except UserError as error:
                if "\n" in error.message:
                    outcome.failures.append((number, f"more than one line: {error.message!r}"))
            except TooSlow:
                outcome.failures.append((number, f"more than {limit_s:g} s"))
            except Exception as error:
                outcome.failures.append((number, f"{type(error).__name__}: {error}"[:300]))
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            took = time.process_time() - began
            if took > outcome.slowest_s:
                outcome.slowest_s, outcome.slowest = took, number
    finally:
        signal.signal(signal.SIGPROF, before)
    return outcome


def _random(name: str, number: int) -> random.Random:
    return random.Random(f"{name}:{number}")


def _stop(*_: object) -> None:
    raise TooSlow


def fuzz(names: list[str], inputs: int, seed: int, jobs: int) -> dict[str, Outcome]:
    """Runs each parser on `inputs` inputs, numbered from `seed * 10**9` on."""
    outcomes = {name: Outcome() for name in names}

    def tasks() -> Iterator[tuple[str, int, int]]:
        for name in names:
            for first in range(0, inputs, CHUNK):
                yield name, seed * 10**9 + first, min(CHUNK, inputs - first)

    if jobs <= 1:
        for name, first, count in tasks():
            outcomes[name].add(run_inputs(name, first, count))
        return outcomes
    with ProcessPoolExecutor(jobs) as pool:
        given = list(tasks())
        for (name, _, _), outcome in zip(given, pool.map(run_inputs, *zip(*given, strict=True)), strict=True):
            outcomes[name].add(outcome)
    return outcomes


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("parser", nargs="*", help="parsers to run (default: all)")
    options.add_argument("--inputs", type=int, default=1000, help="number of inputs for each parser")
    options.add_argument("--seed", type=int, default=0, help="other seeds give other inputs")
    options.add_argument("--jobs", type=int, default=1, help="number of processes")
    options.add_argument("--only", metavar="PARSER:NUMBER", help="run one input and show what it raises")
    given = options.parse_args(arguments)
    known = parsers()
    if given.only:
        name, _, number = given.only.rpartition(":")
        if name not in known:
            options.error(f"no parser {name!r}; there are {', '.join(known)}")
        began = time.perf_counter()
        try:
            known[name](_random(name, int(number)))
        except UserError as error:
            print(f"UserError: {error}")
        except Exception:
            traceback.print_exc()
            return 1
        print(f"{1000 * (time.perf_counter() - began):.1f} ms")
        return 0
    if unknown := [name for name in given.parser if name not in known]:
        options.error(f"no parser {unknown[0]!r}; there are {', '.join(known)}")
    failed = 0
    for name in given.parser or list(known):
        outcome = fuzz([name], given.inputs, given.seed, given.jobs)[name]
        slowest = f"slowest {1000 * outcome.slowest_s:.1f} ms (--only {name}:{outcome.slowest})"
        print(f"{name}: {outcome.inputs} inputs, {len(outcome.failures)} failures, {slowest}", flush=True)
        for number, error in outcome.failures[:_SHOWN]:
            print(f"  --only {name}:{number}  {error}", flush=True)
        failed += len(outcome.failures)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
