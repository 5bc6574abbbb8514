"""Where commands print their tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def wide_console(width: int = 200, highlight: bool = False) -> Console:
    """Standard output for tables: as wide as the terminal, or so many characters in a log, whose lines may be longer
    than a terminal's.
    """
    from rich.console import Console

    console = Console(highlight=highlight)
    if not console.is_terminal:
        console.width = width
    return console
