"""`erc-toolkit models`."""

from __future__ import annotations

import json
from typing import Any

import click

from ...toolkit.commands.command import ToolkitCommand
from ...toolkit.commands.tables import wide_console

# Sizes of the field's shared features, for which parameter counts are published.
_SIZES = {
    "iemocap": ({"text": 1024, "audio": 1582, "visual": 342}, 2, 6),
    "meld": ({"text": 1024, "audio": 300, "visual": 342}, 9, 7),
}


@click.command("models", cls=ToolkitCommand)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def models_command(as_json: bool) -> None:
    """List the models: where each is described, what its implementation is based on, and its number of parameters.

    Parameters are counted for the recipes for IEMOCAP and MELD with the field's shared features (text 1024, audio 1582
    or 300, visual 342). Models that other packages register under the entry point group erc_toolkit.models are listed
    too; those that cannot be used are reported on standard error.
    """
    from ...toolkit.base.errors import UserError
    from ..models.registry import MODELS, build_error, ignored_models, models

    found, problems = {}, ignored_models()
    for name in models():
        try:
            found[name] = _facts(name)
        except Exception as error:  # another package's code may raise anything
            if name in MODELS:  # an error of ours must not be hidden
                raise
            problems.append(str(error) if isinstance(error, UserError) else build_error(name, error))
    for problem in problems:
        click.echo(problem, err=True)
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("model", "paper", "specified"):
        table.add_column(column, overflow="fold")
    for corpus in _SIZES:
        table.add_column(corpus, justify="right")
    for name, facts in found.items():
        numbers = [f"{n:,}" for n in facts["parameters"].values()]
        table.add_row(escape(name), escape(facts["paper"]), escape(facts["specified"]), *numbers)
    wide_console(160).print(table)
    click.echo("train one with: erc-toolkit train STORE --model NAME --out RUN")


def _facts(name: str) -> dict[str, Any]:
    """The information printed about a model, as in the JSON output."""
    from ..models.registry import model_class

    about = model_class(name).about
    return {
        "title": about.title,
        "paper": about.paper,
        "specified": about.specified,
        "parameters": {corpus: _parameters(name, corpus) for corpus in _SIZES},
    }


def _parameters(name: str, corpus: str) -> int:
    """The number of parameters with the model's recipe for a corpus, built without memory for its weights."""
    import numpy as np
    import torch

    from ..config import load_config
    from ..loop.evaluation import build_model

    dims, speakers, classes = _SIZES[corpus]
    with torch.device("meta"):
        model = build_model(load_config(corpus, [f"model.name={name}"]), dims, speakers, np.ones(classes, int))
    return sum(p.numel() for p in model.parameters())
