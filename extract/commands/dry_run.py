"""What `erc-toolkit extract --dry-run` prints."""

from __future__ import annotations

import click

from ...toolkit.base.cores import core_count
from ...toolkit.base.progress import time_in_words
from ...toolkit.commands.tables import wide_console
from ..run.estimate import Estimate


def show(found: Estimate) -> None:
    """Prints time, memory and disk, as a whole and by feature."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("work", overflow="fold")
    for column in ("time", "share", "weights", "disk", "present in the sample"):
        table.add_column(column, justify="right")
    total = sum(found.work.values()) + sum(one.seconds for one in found.features) or 1.0
    for name, seconds in found.work.items():
        table.add_row(escape(name), time_in_words(seconds), f"{seconds / total:.0%}", "", "", "")
    for one in found.features:
        table.add_row(
            escape(one.name),
            time_in_words(one.seconds),
            f"{one.seconds / total:.0%}",
            _size(one.weights) if one.weights else "",
            _size(one.disk),
            f"{one.present} of {one.sampled}",
        )
    wide_console().print(table)
    click.echo(
        f"measured {found.sampled:,} of {found.utterances:,} utterances in {found.sampled_files:,} of {found.files:,} "
        f"files; nothing was written"
    )
    device = f", {_size(found.device_peak)} on the GPU" if found.device_peak else ""
    click.echo(
        f"the corpus: about {time_in_words(found.seconds)} on {core_count()} cores; memory at least "
        f"{_size(found.peak)}{device}; disk {_size(found.disk)}, and as much again until the store is complete"
    )


def _size(count: int) -> str:
    """Bytes in words."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
