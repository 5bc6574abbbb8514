"""`erc-toolkit study`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ...toolkit.base.words import counted
from ...toolkit.commands.command import ToolkitCommand
from ...toolkit.commands.options import device_option, engine_options, log_json_option, overwrite_option
from ...toolkit.commands.tables import wide_console


@click.command("study", cls=ToolkitCommand)
@click.argument("store", type=click.Path(path_type=Path), metavar="STORE.h5", required=False)
@click.option("--study", "name", metavar="NAME|FILE.yaml", help="What to vary; --list shows the built-in studies.")
@click.option(
    "--grid",
    "grids",
    multiple=True,
    metavar="KEY=A,B,...",
    help="Try every value of a setting, e.g. model.window=2,5,10; repeat to try every combination.",
)
@click.option(
    "--search",
    "spaces",
    multiple=True,
    metavar="KEY=A,B|LOW..HIGH|log:LOW..HIGH",
    help="Search for the best settings on the validation split with Optuna; repeat to search several settings jointly.",
)
@click.option(
    "--trials",
    type=click.IntRange(1, 100_000),
    default=20,
    show_default=True,
    metavar="N",
    help="Total number of trials of --search.",
)
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Folder of the study.")
@click.option(
    "--recipe",
    metavar="NAME|FILE.yaml",
    show_default="the recipe named after the store's corpus",
    help="Settings that all variants share.",
)
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting of all variants. Repeatable."
)
@click.option(
    "--seeds", type=click.IntRange(1, 1000), default=1, show_default=True, metavar="N", help="Runs of each variant."
)
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="The first seed.")
@click.option(
    "--jobs", type=click.IntRange(1, 256), default=1, show_default=True, metavar="N", help="Number of parallel runs."
)
@device_option("Device to use; with several GPUs, parallel runs are spread over them.")
@engine_options()
@click.option(
    "--reuse",
    "reuse",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Copy finished runs that are exactly the same from other runs and studies. Repeatable.",
)
@click.option(
    "--dry-run", is_flag=True, help="Time a few steps of every variant, print what the study takes, and exit."
)
@click.option("--list", "listing", is_flag=True, help="List the built-in studies and exit.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; everything else goes to standard error.")
@log_json_option()
@overwrite_option()
def study_command(
    store: Path | None,
    name: str | None,
    grids: tuple[str, ...],
    out: Path | None,
    recipe: str | None,
    changes: tuple[str, ...],
    seeds: int,
    seed: int,
    jobs: int,
    device: str,
    engine: str,
    shared: Path | None,
    reuse: tuple[Path, ...],
    dry_run: bool,
    listing: bool,
    as_json: bool,
    spaces: tuple[str, ...],
    trials: int,
    overwrite: bool,
) -> None:
    """Train variants of a recipe on STORE.h5 and compare their results.

    DIR gets a folder for each run, study.json and results.csv. The same command continues an interrupted study;
    finished runs are not repeated, and a failed run does not stop the others.
    """
    from ..studies.definition import load_study, study_names

    if listing:
        for known in study_names():
            study = load_study(known)
            shows = f" ({study.shows})" if study.shows else ""
            count = len(study.variants)
            click.echo(f"{known:16} {study.title}{shows}: {counted(count, 'variant')}")
        return
    if store is None:
        raise click.UsageError("Missing argument 'STORE.h5'.")
    if (name is not None) + bool(grids) + bool(spaces) != 1:
        raise click.UsageError("give exactly one of --study, --grid and --search")
    if out is None and not dry_run:
        raise click.UsageError("Missing option '--out'.")
    if dry_run and spaces:
        raise click.UsageError("--dry-run does not know which trials --search will propose; leave one of them out")

    from ...toolkit.base.cluster import parse_engine
    from ...toolkit.base.errors import UserError
    from ...toolkit.base.interrupt import explained
    from ...toolkit.base.lock import locked
    from ...toolkit.store import FeatureStore
    from ..config import recipe_of
    from ..studies.record import FAILED, check_study_folder
    from ..studies.remote import performed
    from ..studies.runs import run_study
    from ..studies.study_text import print_study

    def notify(line: str) -> None:
        click.echo(line, err=as_json)

    where = parse_engine(engine, shared)
    inputs = [Path(path) for path in (store, recipe, name) if path is not None and Path(path).is_file()]
    with FeatureStore.open(store) as opened:
        recipe = recipe or recipe_of(opened)
        study = load_study(name, opened.corpus) if name else _grid(grids) if grids else None
        if dry_run and study is not None:
            _estimate(opened, study, recipe, changes, seeds, device, as_json)
            return
    assert out is not None
    kept = f"interrupted; finished runs are kept in {out}; continue with the same command"
    with explained(kept), locked(out, "study", parents=True), performed(where, notify) as perform:
        check_study_folder(out, inputs, overwrite)
        if study is not None:
            found = run_study(
                store, study, out, recipe, changes, range(seed, seed + seeds), jobs, device, notify, reuse, perform
            )
        else:
            from ..studies.search import parse_space, run_search

            space = parse_space(spaces)
            found = run_search(
                store,
                space,
                out,
                recipe,
                changes,
                range(seed, seed + seeds),
                trials,
                jobs,
                device,
                notify,
                perform=perform,
            )
    if as_json:
        click.echo(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        print_study(found, wide_console(220, highlight=True))
    failed = sum(run["status"] == FAILED for row in found["variants"] for run in row["runs"])
    if failed:
        raise UserError(f"{out}: {counted(failed, 'run')} failed; the same command tries again")


def _estimate(opened, study, recipe: str, changes: tuple[str, ...], seeds: int, device: str, as_json: bool) -> None:
    from ..studies.estimate import estimate_study

    found = estimate_study(opened, study, recipe, [*study.shared, *changes], seeds, device)
    if as_json:
        click.echo(json.dumps({"runs": found.runs, "seconds": found.seconds, "bytes": found.bytes}))
        return
    for name, reason in found.skipped.items():
        click.echo(f"{name}: skipped: {reason}")
    click.echo(
        f"{counted(found.runs, 'run')}, one after the other about {found.seconds / 60:.1f} min here; "
        f"{found.bytes / 1e6:.1f} MB"
    )


def _grid(texts: tuple[str, ...]):
    from ...toolkit.base.errors import UserError
    from ..config import parse_yaml
    from ..studies.definition import Study, grid

    values = {}
    for text in texts:
        key, equals, listed = text.partition("=")
        if not equals or not listed:
            raise UserError(f"--grid {text}: must have the form section.key=a,b,c, e.g. model.window=2,5,10")
        values[key.strip()] = parse_yaml(f"[{listed}]", f"--grid {text}")
    return Study("grid", f"Every value of {', '.join(values)}", grid(values, f"--grid {' '.join(texts)}"))
