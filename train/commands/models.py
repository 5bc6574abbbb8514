"""`erc-toolkit models`."""

from __future__ import annotations

import json

import click

from ...toolkit.commands.command import ToolkitCommand

# What the published counts are of: the field's shared features.
_SIZES = {
    "iemocap": ({"text": 1024, "audio": 1582, "visual": 342}, 2, 6),
    "meld": ({"text": 1024, "audio": 300, "visual": 342}, 9, 7),
}


@click.command("models", cls=ToolkitCommand)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def models_command(as_json: bool) -> None:
    """List the models: where each is described, how far ours rests on that, and its parameters.

    Parameters are those of the recipes for IEMOCAP and MELD on the field's shared features (text 1024, audio 1582 or 300,
    visual 342). A model of another package is listed when it registers under the entry point erc_toolkit.models.
    """
    from ..models.registry import model_class, models

    found = {}
    for name in models():
        about = model_class(name).about
        found[name] = {
            "title": about.title,
            "paper": about.paper,
            "specified": about.specified,
            "parameters": {corpus: _parameters(name, corpus) for corpus in _SIZES},
        }
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("model", "paper", "specified"):
        table.add_column(column, overflow="fold")
    for corpus in _SIZES:
        table.add_column(corpus, justify="right")
    for name, told in found.items():
        numbers = [f"{n:,}" for n in told["parameters"].values()]
        table.add_row(escape(name), escape(told["paper"]), escape(told["specified"]), *numbers)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 160
    console.print(table)
    click.echo("train one with: erc-toolkit train STORE --model NAME --out RUN")


def _parameters(name: str, corpus: str) -> int:
    """Of the model's recipe for a corpus, built without memory for its weights."""
    import numpy as np
    import torch

    from ..config import load_config
    from ..loop.evaluation import build_model

    dims, speakers, classes = _SIZES[corpus]
    with torch.device("meta"):
        model = build_model(load_config(corpus, [f"model.name={name}"]), dims, speakers, np.ones(classes, int))
    return sum(p.numel() for p in model.parameters())
