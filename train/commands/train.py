"""`erc-toolkit train`."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

import click

from ...toolkit.commands.command import ToolkitCommand
from ...toolkit.commands.options import device_option, log_json_option


@click.command("train", cls=ToolkitCommand)
@click.argument("store", type=click.Path(path_type=Path), metavar="STORE.h5")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="RUN_DIR", help="Folder of the run; not needed with --dry-run."
)
@click.option(
    "--recipe",
    metavar="NAME|FILE.yaml",
    show_default="the recipe named after the store's corpus",
    help="iemocap, meld, demo, or a file with settings.",
)
@click.option(
    "--model",
    metavar="NAME",
    show_default="amb-dsgdn",
    help="Model to train, with its own recipe; `erc-toolkit models` lists them.",
)
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting, e.g. model.window=5. Repeatable."
)
@click.option("--causal", is_flag=True, help="No utterance attends to later ones (model.causal).")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), show_default="the recipe's", help="Random seed.")
@click.option(
    "--seeds",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Train with N consecutive seeds; report mean and standard deviation.",
)
@click.option("--resume", is_flag=True, help="Continue an interrupted training run in RUN_DIR.")
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard events to RUN_DIR as well.")
@device_option()
@log_json_option()
@click.option("--dry-run", is_flag=True, help="Build the model for the store and describe it, without training.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; everything else goes to standard error.")
@click.option("--overwrite", is_flag=True, help="Replace the run in RUN_DIR.")
def train_command(
    store: Path,
    out: Path | None,
    recipe: str | None,
    changes: tuple[str, ...],
    seed: int | None,
    device: str,
    dry_run: bool,
    as_json: bool,
    overwrite: bool,
    seeds: int | None,
    resume: bool,
    tensorboard: bool,
    causal: bool,
    model: str | None,
) -> None:
    """Train a model on the feature store STORE.h5.

    RUN_DIR gets config.yaml (every setting and what was used), model.safetensors, metrics.jsonl (a line per epoch),
    curves.png, predictions.csv (the test split) and result.json; with --seeds, a folder for each and summary.json.
    """
    if overwrite and resume:
        raise click.UsageError("--overwrite and --resume contradict each other")
    if out is None and not dry_run:
        raise click.UsageError("Missing option '--out' (not needed with --dry-run).")

    from ...toolkit.base.interrupt import explained
    from ...toolkit.store import FeatureStore
    from .. import api

    def notify(line: str) -> None:
        click.echo(line, err=as_json)

    settings = [*changes, *(["model.causal=true"] if causal else [])]
    chosen = {"recipe": recipe, "model": model, "settings": settings, "notify": notify}
    if out is None or dry_run:
        from ..loop.plan import describe, make_plan

        with FeatureStore.open(store) as opened:
            plan = make_plan(opened, api.configure(opened, seed=seed, **chosen))
            described = describe(plan, plan.model())
        click.echo(json.dumps(described, ensure_ascii=False, indent=2) if as_json else _plain(described))
        return
    how = {"device": device, "overwrite": overwrite, "resume": resume, "tensorboard": tensorboard}
    kept = f"interrupted; completed epochs are kept in {out}; continue with the same command and --resume"
    with explained(kept):
        if seeds is not None:
            from ..loop.seeds import spread_lines

            summary = api.train_several(store, out, seeds, first_seed=seed, **chosen, **how)
            for line in spread_lines(summary):
                notify(line)
            if as_json:
                click.echo(json.dumps(summary, ensure_ascii=False, indent=2))
            return
        result = api.train(store, out, seed=seed, **chosen, **how)
    selected = result["selected"]
    notify(
        f"selected epoch {selected['epoch']} of {result['epochs']}: {selected['split']} weighted F1 "
        f"{100 * selected['weighted_f1']:.2f} ({result['protocol']}); {result['seconds']:.1f} s; run in {out}"
    )
    if as_json:
        click.echo(json.dumps(result, ensure_ascii=False, indent=2))
    elif result["test"] is not None:
        test = result["test"]
        notify(
            f"test split: weighted F1 {100 * test['weighted_f1']:.2f}, accuracy {100 * test['accuracy']:.2f}; "
            f"erc-toolkit eval {shlex.quote(str(out))} shows every emotion, and intervals"
        )


def _plain(described: Mapping[str, object]) -> str:
    import yaml

    return yaml.safe_dump(dict(described), sort_keys=False, allow_unicode=True).rstrip()
