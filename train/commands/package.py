"""`erc-toolkit package`."""

from __future__ import annotations

from pathlib import Path

import click

from ...toolkit.commands.command import ToolkitCommand
from ...toolkit.commands.options import overwrite_option


@click.command("package", cls=ToolkitCommand)
@click.argument("run", type=click.Path(path_type=Path), metavar="RUN_DIR")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to create.")
@click.option("--no-encoders", is_flag=True, help="Leave out encoders that are files or folders on this machine.")
@overwrite_option()
def package_command(run: Path, out: Path, no_encoders: bool, overwrite: bool) -> None:
    """Package the trained model in RUN_DIR for use on another machine.

    The folder contains the weights (safetensors), settings, label names, how features are extracted from a recording,
    the encoders that are local files, and a model card with the measured results. `erc-toolkit predict` accepts it like
    a run, and `huggingface_hub` can upload it unchanged.
    """
    from ...toolkit.base.lock import locked
    from ..inference.packaging import package

    with locked(out, "package", parents=True):
        package(run, out, click.echo, encoders=not no_encoders, overwrite=overwrite)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    click.echo(f"wrote {out}: {size / 1e6:.1f} MB")
    click.echo("its README.md lists the licences that apply; openSMILE's forbids commercial use without a licence")
