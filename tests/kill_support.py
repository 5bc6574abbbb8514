"""Commands in child processes that kill themselves at a chosen point, independent of the machine's speed.

A point is an event of Python's audit hooks, which are called just before the event.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

from forked_support import forked

CHILD = """
import os, re, signal, sys
event, pattern, left, number, group = sys.argv[1:6]
left, number = int(left), int(number)
sys.argv[:6] = ["erc-toolkit"]
def subject(name, arguments):
    if name == "os.rename": return "finish", arguments[1]
    if name == "open": return "append" if "a" in str(arguments[1]) else "", arguments[0]
    return name, arguments[0] if arguments else ""
def watch(*what):
    global left
    name, of = subject(*what)
    if left and name == event and re.search(pattern, str(of)):
        left -= 1
        if not left:
            (os.killpg if group == "group" else os.kill)(os.getpid(), number)
sys.addaudithook(watch)
from erc_toolkit.toolkit.commands.start import main
main()
"""


def run_until(
    arguments: Sequence[object],
    event: str,
    pattern: str,
    count: int = 1,
    *,
    how: signal.Signals = signal.SIGKILL,
    group: bool = False,
) -> subprocess.CompletedProcess:
    """Runs `erc-toolkit ARGUMENTS`, which sends itself a signal just before an event; waits for all its processes.

    Args:
        arguments: arguments of the command.
        event: "finish", a file is renamed to its final name; "append", a file is opened for appending; or "import".
        pattern: regular expression, searched for in the name of that file or module.
        count: which of the matching events, from 1.
        how: the signal; after SIGKILL the exit status is checked, so that a point that is not reached fails the test.
        group: send the signal to the worker processes too, as a terminal does.
    """
    words = [event, pattern, count, int(how), "group" if group else "alone", *arguments]
    # Both wait until the pipes are closed, so also for workers that outlive their parent for a moment.
    if event != "import":
        done = forked(CHILD, ["-c", *words], session=True)
    else:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *map(str, words)],
            capture_output=True,
            text=True,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=False,
        )
    assert how != signal.SIGKILL or done.returncode == -signal.SIGKILL, (done.returncode, done.stdout, done.stderr)
    return done
