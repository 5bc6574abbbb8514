"""OUT/reproduction.json: what a reproduction was asked for, and what has become of each step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from ..base.errors import UserError
from ..base.files import write_atomically
from ..base.hashes import json_sha256
from ..base.outputs import check_folder
from ..base.reading.plain_json import parse_json
from .sources import Source
from .steps import Choices, Step

RECORD = "reproduction.json"
DONE, FAILED, LEFT_OUT = "done", "failed", "left out"


class StepRecord(TypedDict):
    """A step: its command, DONE, or FAILED or LEFT_OUT and the reason, its time, a hash of what it was made from."""

    step: str
    corpus: str | None
    study: str
    command: list[str]
    status: str
    reason: str
    seconds: float
    made_from: str


class ReproductionRecord(TypedDict):
    """The content of the file; `corpora` maps a corpus to what was given for it."""

    paper: str
    budget: str
    seeds: int
    corpora: dict[str, str]
    steps: list[StepRecord]


def check_out(out: Path, paper: str, choices: Choices, sources: Sequence[Source], overwrite: bool) -> None:
    """Checks that a reproduction may be begun, or continued, in a folder.

    Raises:
        UserError: the folder holds something else, or a reproduction with another budget or from other files.
    """
    inputs = [source.path for source in sources]
    check_folder(out, [RECORD, *(source.corpus for source in sources)], inputs, earlier=_is_ours, overwrite=overwrite)
    if overwrite or (known := read_record(out)) is None:
        return
    given = {source.corpus: str(source.path.resolve()) for source in sources}
    same = {"paper": known["paper"] == paper, "--budget": known["budget"] == choices.budget.name}
    same |= {f"--{name}": given.get(name, path) == path for name, path in known["corpora"].items()}
    if other := [name for name, equal in same.items() if not equal]:
        raise UserError(f"{out}: was begun with another {other[0]}; choose another --out, or give --overwrite")


def new_record(
    out: Path, paper: str, choices: Choices, sources: Sequence[Source], overwrite: bool
) -> ReproductionRecord:
    """The record to go on with: the folder's own, with what is asked for now."""
    known = read_record(out)
    corpora = {source.corpus: str(source.path.resolve()) for source in sources}
    steps: list[StepRecord] = []
    if known is not None and not overwrite:
        corpora, steps = {**known["corpora"], **corpora}, known["steps"]
    return {"paper": paper, "budget": choices.budget.name, "seeds": choices.seeds, "corpora": corpora, "steps": steps}


def read_record(out: Path) -> ReproductionRecord | None:
    """The folder's record; None if there is none, or if it is damaged."""
    try:
        content: Any = parse_json((out / RECORD).read_text(encoding="utf-8"))
        return content if {"paper", "budget", "seeds", "corpora", "steps"} <= set(content) else None
    except (OSError, ValueError, TypeError):
        return None


def write_record(out: Path, record: ReproductionRecord) -> None:
    """Writes OUT/reproduction.json."""
    write_atomically(out / RECORD, json.dumps(record, ensure_ascii=False, indent=1).encode())


def made_from(step: Step) -> str:
    """Identifies what a step's result depends on: its command, and the content of the files that it reads."""
    contents = []
    for path in step.inputs:
        with open(path, "rb") as file:
            contents.append(hashlib.file_digest(file, "sha256").hexdigest())
    return json_sha256([list(step.arguments), contents])


def is_finished(record: ReproductionRecord, step: Step) -> bool:
    """Whether a step was done from the same files, and its result is still there."""
    known = next((one for one in record["steps"] if one["step"] == step.title), None)
    return known is not None and known["status"] == DONE and step.out.exists() and known["made_from"] == made_from(step)


def note(record: ReproductionRecord, step: Step, status: str, reason: str, seconds: float) -> None:
    """Puts what has become of a step into the record, in place of what was there about it."""
    made = made_from(step) if status == DONE else ""
    new: StepRecord = {
        "step": step.title,
        "corpus": step.corpus,
        "study": step.study,
        "command": ["erc-toolkit", *step.arguments],
        "status": status,
        "reason": reason,
        "seconds": round(seconds, 2),
        "made_from": made,
    }
    places = [i for i, one in enumerate(record["steps"]) if one["step"] == step.title]
    if places:
        record["steps"][places[0]] = new
    else:
        record["steps"].append(new)


def _is_ours(out: Path) -> bool:
    return read_record(out) is not None
