"""Options that several commands of `train` have."""

from __future__ import annotations

from collections.abc import Callable

import click


def device_option(text: str) -> Callable:
    """`--device auto|cpu|cuda`, with `text` as its help."""
    return click.option(
        "--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True, help=text
    )
