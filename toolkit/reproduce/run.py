"""Runs the steps of a reproduction, and keeps going where a step fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..base.errors import Interrupted, ToolkitError
from .record import DONE, FAILED, LEFT_OUT, ReproductionRecord, is_finished, note, write_record
from .steps import Step

Command = Callable[[Sequence[str]], None]


def run_steps(
    steps: Sequence[Step], record: ReproductionRecord, out: Path, command: Command, notify: Callable[[str], None]
) -> dict[str, str]:
    """Runs what is not done, in order, and records each step as soon as it has ended.

    After a failure, the corpus's later steps are left out, but for studies: they need one another's results as little
    as those of the other corpus. After that of a step of no corpus, so are those of the corpora that use its result.

    Args:
        steps: the plan.
        record: of the folder `out`; changed.
        out: the reproduction's folder.
        command: runs a command of the toolkit, given what follows `erc-toolkit`.
        notify: called with each line of progress.

    Returns:
        Title of each step that failed or was left out, with the reason.
    """
    failed: dict[str, str] = {}
    blocked: dict[str, str] = {}
    began = time.monotonic()
    for number, step in enumerate(steps, 1):
        where = f"[{number}/{len(steps)}] {step.title}"
        if step.corpus in blocked:
            failed[step.title] = reason = blocked[step.corpus]
            notify(f"{where}: left out: {reason}")
            if not step.out.exists():  # else what is known of it is still so
                note(record, step, LEFT_OUT, reason, 0)
                write_record(out, record)
            continue
        if not step.settles_itself and is_finished(record, step):
            notify(f"{where}: done already")
            continue
        notify(f"{where} (after {(time.monotonic() - began) / 60:.1f} min)")
        step.out.parent.mkdir(parents=True, exist_ok=True)
        # What such a command wrote before was made from other files, or by an end between its last file and the record.
        arguments = step.arguments if step.settles_itself or not step.out.exists() else (*step.arguments, "--overwrite")
        start, reason = time.monotonic(), ""
        try:
            command(arguments)
        except Interrupted:
            raise
        except ToolkitError as error:
            reason = error.message
            failed[step.title] = reason
            notify(f"{where}: failed: {reason}")
            if not step.study:
                for corpus in _who_needs(step, steps[number:]):
                    blocked[corpus] = f"{step.title} failed: {reason}"
        note(record, step, FAILED if reason else DONE, reason, time.monotonic() - start)
        write_record(out, record)
    return failed


def _who_needs(step: Step, later: Sequence[Step]) -> set[str]:
    """The corpora that cannot go on without a step's result."""
    if step.corpus is not None:
        return {step.corpus}
    return {one.corpus for one in later if one.corpus is not None and str(step.out) in one.arguments}
