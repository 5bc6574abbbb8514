"""Recipes, studies and presets: built-in YAML files by name, or the user's own by path."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from .errors import UserError
from .words import did_you_mean


def shipped_names(folder: str) -> list[str]:
    """Names of the YAML files in a folder of `manifests`, without the extension."""
    items = (resources.files("erc_toolkit.manifests") / folder).iterdir()
    return sorted(item.name.removesuffix(".yaml") for item in items if item.name.endswith(".yaml"))


def read_shipped(folder: str, kind: str, name: str) -> tuple[str, str]:
    """The text of a built-in file or of the file at a path, and the name to use for it in messages.

    Args:
        folder: a folder in `manifests`.
        kind: what the file contains, for messages: "recipe", "study" or "preset".
        name: name or path.

    Raises:
        UserError: it is neither, or cannot be read.
    """
    if name in shipped_names(folder):
        return (resources.files("erc_toolkit.manifests") / folder / f"{name}.yaml").read_text(
            encoding="utf-8"
        ), f"{kind} {name}"
    try:
        return Path(name).read_text(encoding="utf-8-sig"), name
    except (FileNotFoundError, IsADirectoryError):
        names = shipped_names(folder)
        raise UserError(f"{name}: neither a {kind} of the toolkit nor a YAML file{did_you_mean(name, names)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: cannot be read as UTF-8 text ({error})") from None
