"""Extraction as a function, for programs: `erc_toolkit.extract`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..toolkit.base.errors import UserError
from ..toolkit.manifest import Manifest, load_manifest
from .encoders.option import option_specs
from .encoders.selection import Options
from .run.engine import Summary
from .run.engine import extract as run_extraction


def extract(
    manifest: Manifest | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    shard: tuple[int, int] | None = None,
    command: str = "",
    notify: Callable[[str], None] = print,
    **options: Any,
) -> Summary:
    """Extracts the features of a manifest into a store; `erc-toolkit extract` is this function.

    What an earlier, interrupted call has finished is kept, and features that the store has already are not computed
    again. An utterance whose media cannot be used is masked in the store, with its reason.

    Args:
        manifest: the corpus, or the path of a manifest file.
        out: the store to write (.h5); it appears complete or not at all.
        shard: (i, n): do the i-th of n shares (from 1) and write parts alone; `erc-toolkit merge` joins them.
        command: the command line, for the record.
        notify: called with a line about each encoder that is used and about what was found done.
        **options: those of `erc-toolkit extract`, with underscores: `modalities=("text", "audio")`,
            `text_model="roberta-base"`, `device="cuda:1"`, ... `Options` has them with their types and defaults.

    Returns:
        Counts of utterances, of masked rows by reason, and the time that each stage took.

    Raises:
        UserError: an option that does not exist or has a wrong value, a model that cannot be loaded, a folder that cannot
            be written, work of other options in the way, or an interruption (the message says how to resume).
        FaultError: a worker failed on some utterances with no known defect; everything else is done and kept.
    """
    known = option_specs(Options)
    if unknown := [name for name in options if name not in known]:
        raise UserError(f"extract: unknown option {unknown[0]!r}; the options are {', '.join(known)}")
    if not isinstance(manifest, Manifest):
        manifest = load_manifest(Path(manifest))
    return run_extraction(manifest, Path(out), Options(**options), command=command, shard=shard, notify=notify)
