"""Extraction as a function, for programs: `erc_toolkit.extract`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..toolkit.base.cluster import opened, parse_engine
from ..toolkit.base.errors import UserError
from ..toolkit.manifest import Manifest, load_manifest
from .encoders.kinds import requests_of
from .encoders.option import option_specs
from .encoders.selection import Options
from .run.engine import Summary
from .run.engine import extract as run_extraction
from .run.estimate import Estimate
from .run.estimate import estimate as measure
from .run.precision import with_precision
from .run.runtime import with_runtime
from .spans import check_spans


def estimate(
    manifest: Manifest | str | os.PathLike[str], *, notify: Callable[[str], None] = print, **options: Any
) -> Estimate:
    """Measures a few dialogues: what the extraction of a manifest will take; `erc-toolkit extract --dry-run`.

    Args:
        manifest: the corpus, or the path of a manifest file.
        notify: called with one line per encoder.
        **options: as for `extract`.

    Returns:
        Time, memory and disk on this machine, as a whole and by feature.

    Raises:
        UserError: as `extract`.
    """
    found, chosen = _prepared(manifest, options, notify)
    with tempfile.TemporaryDirectory(prefix="erc-toolkit-") as folder:  # where no earlier work decides on the precision
        chosen = with_precision(chosen, Path(folder) / "sample.h5", notify)
    return measure(found, chosen, notify)


def extract(
    manifest: Manifest | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    shard: tuple[int, int] | None = None,
    strict: bool = False,
    overwrite: bool = False,
    command: str = "",
    notify: Callable[[str], None] = print,
    engine: str = "local",
    shared: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Summary:
    """Extracts the features of a manifest into a store; `erc-toolkit extract` is this function.

    Rows of an earlier call, finished or interrupted, are kept if transcript, span and content of the media file are the
    same; new and changed ones are computed, and those of utterances that went away are left out. An utterance whose
    media cannot be used is masked in the store, with the reason.

    Args:
        manifest: the corpus, or the path of a manifest file.
        out: the store to write (.h5); it appears complete or not at all.
        shard: (i, n): process shard i of n (counted from 1) and write its parts only; `erc-toolkit merge` joins them.
        strict: fail if a worker failed on an utterance, instead of masking it.
        overwrite: ignore what is at `out`, and replace it.
        command: the command line, for the record.
        notify: called with one line per encoder and per finding about earlier work.
        engine: "local", or a Ray cluster whose nodes compute: "ray", "ray:HOST:PORT", "ray://HOST:PORT".
        shared: a folder that all nodes have, through which results come back; None for Ray's own objects.
        **options: those of `erc-toolkit extract`, with underscores: `modalities=("text", "audio")`,
            `text_model="roberta-base"`, `device="cuda:1"`, ... `Options` lists them with types and defaults.

    Returns:
        Counts of utterances and of masked rows by reason, and the time taken by each stage.

    Raises:
        UserError: an unknown option or an invalid value, a model that cannot be loaded, a folder that cannot be
            written, spans that all lie beyond the end of their file, a store or unfinished work with other options or
            of another corpus at `out`, an engine that cannot be used, or an interruption (the message says how to
            resume).
        FaultError: with `strict`, a worker failed on some utterances; or all nodes of a cluster were lost. Everything
            else is done and kept.
    """
    where = parse_engine(engine, None if shared is None else Path(shared))
    found, chosen = _prepared(manifest, options, notify)
    chosen = with_runtime(with_precision(chosen, Path(out), notify), Path(out), notify)
    with opened(where, notify) as cluster:
        return run_extraction(
            found,
            Path(out),
            chosen,
            command=command,
            shard=shard,
            strict=strict,
            overwrite=overwrite,
            notify=notify,
            cluster=cluster,
        )


def _prepared(
    manifest: Manifest | str | os.PathLike[str], options: dict[str, Any], notify: Callable[[str], None]
) -> tuple[Manifest, Options]:
    """The manifest, whose spans were checked if media are needed, and the options."""
    known = option_specs(Options)
    if unknown := [name for name in options if name not in known]:
        raise UserError(f"extract: unknown option {unknown[0]!r}; the options are {', '.join(known)}")
    chosen = Options(**options)
    if not isinstance(manifest, Manifest):
        manifest = load_manifest(Path(manifest))
    if any(request.modality != "text" for request in requests_of(chosen)):
        for note in check_spans(manifest, chosen.workers):
            notify(note)
    return manifest, chosen
