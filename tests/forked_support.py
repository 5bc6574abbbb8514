"""Commands as processes of their own that need not import the libraries again: forks of one process that has them.

A command that a test starts as a new interpreter spends most of its time on imports. What depends on a new interpreter,
as what is imported from where, is not tested with these.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence

# Does what is asked for through a socket: code as a process with its own output, place and environment.
_SERVER = """
import atexit, gc, importlib, json, os, socket, sys, threading, traceback
def main(request):
    try:
        exec(request["code"], {"__name__": "__main__"})
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return 0 if end.code is None else end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
asked = socket.socket(fileno=int(sys.argv[1]))
for name in sys.argv[2:]:
    importlib.import_module(name)
gc.freeze()
while True:
    message, files, _, _ = socket.recv_fds(asked, 1 << 20, 2)
    if not message:
        break
    request = json.loads(message)
    pid = os.fork()
    if not pid:
        asked.close()
        for number, file in enumerate(files, 1):
            os.dup2(file, number)
            os.close(file)
        if request["session"]:
            os.setsid()
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environ"])
        sys.argv = request["words"]
        status = main(request)
        # As an interpreter ends, but for taking every module of the libraries apart, which takes a second.
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    for file in files:
        os.close(file)
    asked.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
"""
_IMPORTED = (
    "erc_toolkit.train.api",
    "erc_toolkit.train.loop.trainer",
    "erc_toolkit.train.studies.runs",
    "erc_toolkit.extract.api",
    "erc_toolkit.extract.run.engine",
    "transformers.models.auto.modeling_auto",
    "transformers.models.roberta.modeling_roberta",
)


class _Forks:
    """The process that forks, started when it is first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None

    def _start(self) -> None:
        self._asks, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVER, str(theirs.fileno()), *_IMPORTED],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                pass_fds=[theirs.fileno()],
            )

    def run(self, code: str, words: Sequence[str], session: bool, cwd: str) -> subprocess.CompletedProcess[str]:
        if self._process is None:
            self._start()
        request = {
            "code": code,
            "words": list(words),
            "session": session,
            "folder": cwd,
            "environ": {**os.environ, "OMP_NUM_THREADS": "1"},
        }
        pipes = [os.pipe(), os.pipe()]
        found: list[bytes] = [b"", b""]

        def read(number: int) -> None:
            with open(pipes[number][0], "rb") as file:
                found[number] = file.read()

        threads = [threading.Thread(target=read, args=(number,)) for number in range(2)]
        try:
            try:
                socket.send_fds(self._asks, [json.dumps(request).encode()], [pipe[1] for pipe in pipes])
            finally:
                for _, theirs in pipes:
                    os.close(theirs)
                for thread in threads:
                    thread.start()
            status = self._asks.recv(64)
            for thread in threads:  # until nobody has the pipes any more, so also for workers of the command
                thread.join()
        except BaseException:
            self.end()
            raise
        assert status, "the process that forks has died"
        output, errors = (text.decode() for text in found)
        return subprocess.CompletedProcess(list(words), int(status), output, errors)

    def end(self) -> None:
        if self._process is not None:
            self._asks.close()
            self._process.kill()
            self._process.wait()
            self._process = None


_FORKS = _Forks()
atexit.register(_FORKS.end)


def forked(
    code: str, words: Sequence[object], *, session: bool = False, cwd: object = None
) -> subprocess.CompletedProcess[str]:
    """Runs code as the main module of a process with these command-line arguments, the first of which is its name.

    Args:
        code: of Python.
        words: its `sys.argv`.
        session: give it a session of its own.
        cwd: its working folder; None for that of this process.
    """
    return _FORKS.run(code, list(map(str, words)), session, str(cwd or os.getcwd()))
