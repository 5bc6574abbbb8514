"""Imported first by the fork server, and only there: makes it end with the process that started it.

The server would notice by itself, but not while it is importing libraries, which takes seconds.
"""

from __future__ import annotations

import os
import sys
from multiprocessing import forkserver

from .child import kill_at_end_of

_frame = sys._getframe()
while _frame is not None:
    if _frame.f_code is forkserver.main.__code__ and "alive_r" in _frame.f_locals:
        # The read end of a pipe into which nothing is written; this process and its workers have the other end.
        kill_at_end_of(_frame.f_locals["alive_r"], os.getpid())
        break
    _frame = _frame.f_back
del _frame
