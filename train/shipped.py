"""Recipes and studies: YAML files of the toolkit by name, or the user's own by path."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from ..toolkit.base.errors import UserError


def shipped_names(folder: str) -> list[str]:
    """Names of the YAML files in a folder of `manifests`, without their ending."""
    items = (resources.files("erc_toolkit.manifests") / folder).iterdir()
    return sorted(item.name.removesuffix(".yaml") for item in items if item.name.endswith(".yaml"))


def read_shipped(folder: str, kind: str, name: str) -> tuple[str, str]:
    """The text of one of them, or of the file of that path, and what messages call it.

    Args:
        folder: of `manifests`.
        kind: of thing, for messages: "recipe" or "study".
        name: name or path.

    Raises:
        UserError: it is neither, or cannot be read.
    """
    if name in shipped_names(folder):
        return (resources.files("erc_toolkit.manifests") / folder / f"{name}.yaml").read_text(encoding="utf-8"), f"{kind} {name}"
    try:
        return Path(name).read_text(encoding="utf-8-sig"), name
    except (FileNotFoundError, IsADirectoryError):
        names = ", ".join(shipped_names(folder))
        raise UserError(f"{name}: neither a {kind} of the toolkit ({names}) nor a YAML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: cannot be read as UTF-8 text ({error})") from None
