"""Adds the help of every command to docs/reference/commands.md, read from click when the site is built.

The text of the page comes first, followed by a section for each command and subcommand.
"""

from __future__ import annotations

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

PAGE, WIDTH = "reference/commands.md", 80


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    if page.file.src_uri != PAGE:
        return markdown
    from erc_toolkit.toolkit.commands.main import main

    return markdown.rstrip() + "\n\n" + "\n\n".join(sections(main, "erc-toolkit")) + "\n"


def sections(command: click.Command, name: str, parent: click.Context | None = None, level: int = 2) -> list[str]:
    """A section for the command, followed by one for each of its subcommands, in the order of its help.

    Corpora of other installed packages are omitted, as the page describes only this package.
    """
    ctx = click.Context(
        command,
        info_name=name,
        parent=parent,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
        color=False,
    )
    title = ctx.command_path
    found = [f"{'#' * level} {title}\n\n```text\n{command.get_help(ctx).rstrip()}\n```"]
    if isinstance(command, click.Group):
        for sub in command.list_commands(ctx):
            child = command.get_command(ctx, sub)
            if child is not None:
                found += sections(child, sub, ctx, min(level + 1, 4))
    return found
