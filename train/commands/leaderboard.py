"""`erc-toolkit leaderboard`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from ...toolkit.commands.command import ToolkitCommand
from ...toolkit.commands.options import device_option, engine_options, log_json_option, overwrite_option


@click.command("leaderboard", cls=ToolkitCommand)
@click.argument("stores", nargs=-1, type=click.Path(path_type=Path), metavar="STORE.h5...")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="Folder of the board.")
@click.option(
    "--models",
    "names",
    default="all",
    show_default=True,
    metavar="A,B,...",
    help="Models to add, separated by commas; `erc-toolkit models` lists them.",
)
@click.option("--seeds", type=click.IntRange(1, 1000), default=5, show_default=True, metavar="N", help="Runs of each.")
@click.option(
    "--tune",
    type=click.IntRange(0, 100_000),
    default=0,
    show_default=True,
    metavar="N",
    help="Trials of Optuna for each model on each store, on the validation split alone; the first is the recipe.",
)
@click.option(
    "--space",
    "spaces",
    multiple=True,
    metavar="KEY=A,B|LOW..HIGH|log:LOW..HIGH",
    help="What --tune varies, instead of learning rate, weight decay and dropout. Repeatable.",
)
@click.option(
    "--recipe", metavar="NAME|FILE.yaml", show_default="the recipe named after each store's corpus", help="Settings."
)
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting of every model. Repeatable."
)
@click.option(
    "--jobs", type=click.IntRange(1, 256), default=1, show_default=True, metavar="N", help="Number of parallel runs."
)
@click.option(
    "--merge",
    "boards",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="BOARD",
    help="Join boards (their folders, or their board.json) instead of training. Repeatable.",
)
@device_option("Device to use; with several GPUs, parallel runs are spread over them.")
@engine_options()
@click.option("--json", "as_json", is_flag=True, help="Print board.json; everything else goes to standard error.")
@log_json_option()
@overwrite_option()
def leaderboard_command(
    stores: tuple[Path, ...],
    out: Path,
    names: str,
    seeds: int,
    tune: int,
    spaces: tuple[str, ...],
    recipe: str | None,
    changes: tuple[str, ...],
    jobs: int,
    boards: tuple[Path, ...],
    device: str,
    engine: str,
    shared: Path | None,
    as_json: bool,
    overwrite: bool,
) -> None:
    """Train every model on each STORE.h5 by the same rules, and rank them with intervals.

    The epoch, and with --tune the settings, are chosen on the validation split. DIR gets leaderboard.html, .csv, .tex
    and .md, board.json, and the runs; the same command continues, and other --models are added. --merge joins the
    boards of several machines.
    """
    from ...toolkit.base.lock import locked
    from ...toolkit.base.outputs import check_folder
    from ..leaderboard.page import FILES, PAGE, write_files
    from ..leaderboard.record import is_board, read_board

    if bool(stores) == bool(boards):
        raise click.UsageError("give either stores, or boards with --merge")

    def notify(line: str) -> None:
        click.echo(line, err=as_json)

    def check() -> None:
        check_folder(out, FILES, [*stores, *boards], earlier=lambda folder: is_board(folder), overwrite=overwrite)

    if boards:
        from ..leaderboard.merging import merged

        board = merged([(path, read_board(path)) for path in boards])
        with locked(out, "leaderboard", parents=True):
            check()
            found = write_files(out, board)
    else:
        from ...toolkit.base.cluster import parse_engine
        from ...toolkit.base.interrupt import explained
        from ..leaderboard.running import SPACE, Asked
        from ..studies.remote import performed

        asked = Asked(recipe, list(changes), seeds, tune, _space(spaces) if spaces else dict(SPACE))
        kept = f"interrupted; finished runs are kept in {out}; continue with the same command"
        where = parse_engine(engine, shared)
        with explained(kept), locked(out, "leaderboard", parents=True), performed(where, notify) as perform:
            check()
            board, found = _fill(stores, names, asked, out, jobs, device, notify, overwrite, perform)
    for one in found:
        notify(f"{one.store['name']}: {one.headline()}")
    notify(f"{out / PAGE}: {len(board['rows'])} rows")
    if as_json:
        import json

        click.echo(json.dumps(board, ensure_ascii=False))


def _fill(
    stores: Sequence[Path], names: str, asked, out: Path, jobs: int, device: str, notify, overwrite: bool, perform
):
    """Makes all rows, writing the board after each; returns it with its standings."""
    from ...toolkit.base.errors import UserError
    from ...toolkit.store import FeatureStore
    from ..config import load_config, recipe_of
    from ..leaderboard.page import write_files
    from ..leaderboard.record import BOARD, empty_board, read_board, write_board
    from ..leaderboard.running import Work, known_changes, make_row
    from ..models.registry import model_class, models

    chosen = models() if names == "all" else [name.strip() for name in names.split(",")]
    for name in chosen:
        model_class(name)
    folders = {}
    for path in stores:  # what is wrong is said before the first run
        with FeatureStore.open(path) as store:
            recipe = asked.recipe or recipe_of(store)
            config = load_config(recipe, [f"model.name={chosen[0]}"])
            if config.train.protocol != "validation" or any("train.protocol" in one for one in asked.changes):
                raise UserError("a leaderboard selects on the validation split, so train.protocol cannot be changed")
            folders[path] = (recipe, f"{path.stem}-{store.content_hash[:8]}")
    for recipe in dict.fromkeys(recipe for recipe, _ in folders.values()):
        for name in chosen:
            load_config(recipe, [f"model.name={name}", *known_changes(asked.changes, name, recipe)])
    for change in asked.changes:
        if all(
            change not in known_changes([change], name, recipe) for name in chosen for recipe, _ in folders.values()
        ):
            load_config(next(iter(folders.values()))[0], [f"model.name={chosen[0]}", change])  # says what is wrong
    board = empty_board(asked.as_dict())
    if (out / BOARD).is_file() and not overwrite:
        board = read_board(out)
        if board.get("asked") != asked.as_dict():
            known = board.get("asked")
            other = [key for key, value in asked.as_dict().items() if not known or known.get(key) != value]
            raise UserError(f"{out}: was begun with other {' and '.join(other)}; choose another --out, or --overwrite")
    out.mkdir(parents=True, exist_ok=True)
    write_board(out, board)  # by which the folder is known as a board's
    found = []
    for path, (recipe, folder) in folders.items():
        for number, name in enumerate(chosen, 1):
            notify(f"{path.stem}: {name} ({number} of {len(chosen)})")
            make_row(board, Work(path, recipe, asked, out / folder, jobs, device, notify, perform), name)
            found = write_files(out, board)
    return board, found


def _space(texts: Sequence[str]) -> dict[str, str]:
    from ..studies.search import parse_space

    parse_space(texts)
    return {key.strip(): values for key, _, values in (text.partition("=") for text in texts)}
