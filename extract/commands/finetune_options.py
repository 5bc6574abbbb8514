"""The options that the commands of fine-tuning share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

_OPTIONS = (
    click.option("--epochs", type=click.IntRange(1), default=30, show_default=True),
    click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Utterances per update."),
    click.option(
        "--micro-batch",
        type=click.IntRange(1),
        default=8,
        show_default=True,
        help="How many of them are in memory at once.",
    ),
)
_SELECTION = (
    click.option(
        "--select",
        type=click.Choice(["accuracy", "weighted_f1"]),
        default="accuracy",
        show_default=True,
        help="Metric on the validation split that selects the epoch.",
    ),
    click.option("--seed", default=0, show_default=True, help="Random seed of the head, the order and the dropout."),
)
_RESOURCES = (
    click.option(
        "--lora",
        type=click.IntRange(0),
        default=0,
        metavar="R",
        help="Train low-rank adapters of rank R instead of all weights; they are merged at the end. Needs pip install "
        "'erc-toolkit[llm]'.  [default: 0, all weights]",
    ),
    click.option("--gradient-checkpointing", is_flag=True, help="Compute activations twice: less memory, more time."),
    click.option(
        "--precision",
        type=click.Choice(["float32", "bfloat16"]),
        default="float32",
        show_default=True,
        help="Of the matrix products; with --lora also of the frozen weights. What is trained is float32.",
    ),
)


def _all(options: tuple[Callable[..., Any], ...]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return add


batch_options = _all(_OPTIONS)
selection_options = _all(_SELECTION)
resource_options = _all(_RESOURCES)
