"""Registry of the readers of raw corpora, which turn the unpacked folder of a corpus into a manifest.

A reader is one function `read_<name>(root: Path, *, options) -> Manifest`. Its keyword-only parameters are its options
on the command line, annotated `Annotated[T, "help"]`, where T is a Literal of strings, bool, str, int, float or Path,
or one of these or None. It is registered by a line in `CORPORA`, or by another package through the entry-point group
`erc_toolkit.corpora`. docs/how-to/add-a-corpus.md has a complete example.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath

from ...toolkit.base.demo_mark import NOTE, is_demo_corpus
from ...toolkit.base.errors import UserError
from ...toolkit.base.plugins import PluginRegistry
from ...toolkit.manifest import Manifest, manifest_from_rows

CORPORA = {
    "iemocap": "erc_toolkit.extract.corpora.iemocap:read_iemocap",
    "meld": "erc_toolkit.extract.corpora.meld:read_meld",
    "m3ed": "erc_toolkit.extract.corpora.m3ed:read_m3ed",
    "ch-sims": "erc_toolkit.extract.corpora.mmsa:read_ch_sims",
    "cmu-mosei": "erc_toolkit.extract.corpora.mmsa:read_cmu_mosei",
    "emorynlp": "erc_toolkit.extract.corpora.emorynlp:read_emorynlp",
    "dailydialog": "erc_toolkit.extract.corpora.dailydialog:read_dailydialog",
    "folder": "erc_toolkit.extract.corpora.folder:read_folder",
    "subtitles": "erc_toolkit.extract.corpora.subtitles:read_subtitles",
    "recordings": "erc_toolkit.extract.corpora.recordings:read_recordings",
}
_REGISTRY = PluginRegistry("corpus", "erc_toolkit.corpora", CORPORA)

Reader = Callable[..., Manifest]


def corpora() -> list[str]:
    """The names of all registered corpora, the built-in ones first."""
    return _REGISTRY.names()


def corpus_packages(name: str) -> list[str]:
    """The packages that register a corpus; empty for a built-in one."""
    return _REGISTRY.packages(name)


def find_reader(name: str) -> Reader:
    """The reader of a corpus.

    Raises:
        UserError: there is no such corpus, two packages register its name, or it cannot be loaded.
    """
    reader: Reader = _REGISTRY.load(name)
    if not callable(reader):
        raise _REGISTRY.error(name, "is not a function")
    return reader


def read_corpus(name: str, root: Path | str, /, **options: object) -> Manifest:
    """Reads a raw corpus, and checks the reader's manifest in the same way as a manifest file.

    Args:
        name: a registered corpus, e.g. "meld".
        root: the folder of the corpus.
        **options: the reader's options.

    Raises:
        UserError: no such corpus or option, or an error that the reader finds in the corpus.
    """
    reader = find_reader(name)
    if unknown := [option for option in options if option not in reader_parameters(reader)]:
        known = ", ".join(reader_parameters(reader)) or "none"
        raise UserError(f"corpus {name!r} has no option {unknown[0]!r}; it has {known}")
    if not os.path.exists(root):
        raise UserError(f"{root}: no such folder; give the folder of the corpus")
    manifest = reader(Path(root), **options)
    source = f"manifest from the reader of {name}"
    rows = ((i, {f: getattr(u, f) for f in u.__slots__}) for i, u in enumerate(manifest.utterances, 1))
    checked = manifest_from_rows(
        source, rows, manifest.corpus, manifest.labels, manifest.root, manifest.notes, unit="utterance"
    )
    for number, utterance in enumerate(checked.utterances, 1):
        try:
            json.dumps(utterance.extra)
        except (TypeError, ValueError, RecursionError) as error:
            raise UserError(f"{source}, utterance {number}, field extra: not JSON-serialisable ({error})") from None
    if any(map(is_demo_corpus, _folders(checked, Path(root)))):
        checked = dataclasses.replace(checked, notes=[NOTE, *checked.notes])
    return checked


def _folders(manifest: Manifest, root: Path) -> set[Path]:
    """The folder of a corpus and those between it and its media: the root that is given may be a folder above it."""
    above = {parent for u in manifest.utterances if u.media is not None for parent in PurePosixPath(u.media).parents}
    return {root, *(Path(manifest.root) / parent for parent in above)}


def reader_parameters(reader: Reader) -> Mapping[str, tuple[object, str, inspect.Parameter]]:
    """A reader's options: name -> (type without None, help, parameter) of each keyword-only parameter.

    Raises:
        UserError: an annotation cannot be resolved.
    """
    try:
        hints = typing.get_type_hints(reader, include_extras=True)
    except NameError as error:
        raise UserError(f"{reader.__module__}.{reader.__name__}: an annotation cannot be resolved ({error})") from None
    found = {}
    for name, parameter in inspect.signature(reader).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        kind, help_text = hints.get(name, str), ""
        if typing.get_origin(kind) is typing.Annotated:
            kind, help_text, *_ = typing.get_args(kind)
        if typing.get_origin(kind) in (typing.Union, types.UnionType):
            rest = [one for one in typing.get_args(kind) if one is not types.NoneType]
            kind = rest[0] if len(rest) == 1 else kind
        found[name] = kind, str(help_text), parameter
    return found


def reader_summary(reader: Reader) -> str:
    """The first line of a reader's docstring."""
    return (inspect.getdoc(reader) or reader.__name__).splitlines()[0]
