"""Which files the models of a run's or package's extraction options are. A package may only name its own files."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path, PureWindowsPath

from ...toolkit.base.errors import UserError

ENCODERS = "encoders"  # folder of a package with the encoders of its features
EXTRACTION = "extraction.yaml"  # only packages have it
# Options that may name a local file or folder, which is then copied into the package.
MODEL_OPTIONS = (
    "text_model",
    "text_prompt",
    "audio_model",
    "visual_model",
    "visual_weights",
    "face_model",
    "lips_model",
)


def in_package(folder: Path, name: str, value: object) -> Path | None:
    """The file or folder of a package that an option names; None if it names something else, such as a model on a hub.

    Args:
        folder: a run folder or a package.
        name: name of the option, for the message.
        value: its value, as recorded.

    Raises:
        UserError: it is a path that leads out of the package, or a link in it does.
    """
    if not isinstance(value, str):
        return None
    if value.startswith(f"{ENCODERS}/"):
        whole, found = folder.resolve(), (folder / value).resolve()
        if not found.is_relative_to(whole):
            raise _leads_out(folder, name, value)
        for top, folders, files in os.walk(found):
            if not all((Path(top) / entry).resolve().is_relative_to(whole) for entry in folders + files):
                raise _leads_out(folder, name, value)
        return found
    if (folder / EXTRACTION).is_file() and _is_path(value):
        # Another package's option may be anything.
        if name in MODEL_OPTIONS or ("." in name and Path(value).expanduser().exists()):
            raise _leads_out(folder, name, value)
    return None


def resolve_models(folder: Path, options: dict[str, object], replaced: Collection[str] = ()) -> None:
    """Replaces the paths of a package in extraction options by absolute ones.

    Args:
        folder: a run folder or a package.
        options: of one modality.
        replaced: names of options whose value is not used.

    Raises:
        UserError: as for `in_package`.
    """
    for name, value in options.items():
        if name not in replaced and (found := in_package(folder, name, value)) is not None:
            options[name] = str(found)


def _is_path(value: str) -> bool:
    """Whether a value is a path that may lead anywhere, on any system, and no name on a hub."""
    path = PureWindowsPath(value)  # understands both separators
    return bool(path.anchor) or ".." in path.parts or value.startswith(("~", "./", ".\\"))


def _leads_out(folder: Path, name: str, value: str) -> UserError:
    option = f"--{name.replace('_', '-')}" if name in MODEL_OPTIONS else "the extractor's option"
    return UserError(
        f"{folder}: its {name} {value!r} leads out of the package; do not use it if it is not yours, or choose the "
        f"model with {option}"
    )
