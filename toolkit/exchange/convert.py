"""Recognises the layouts of other projects' files and converts them to one store."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..base.errors import UserError
from ..base.reading.file_kinds import file_kind
from ..base.reading.foreign_text import match_names
from ..base.words import counted
from ..manifest import Manifest
from . import arrays, mmsa
from .layouts import LAYOUTS, Layout, describe, recognise
from .pack import Pack, entry_length, write_pack
from .pickles.texts import bytes_to_texts
from .read_lists import add_features, dialogue_name, is_key, read_lists
from .readers import npy_folder, splits, tables
from .readers.repairs import repair_texts
from .unpickle import load_pickle

_ARRAYS = (".npy", ".npz")


def convert(
    files: Sequence[str],
    out: Path,
    *,
    manifest: Path | None = None,
    corpus: str | None = None,
    labels: Sequence[str] = (),
    keep_zeros: bool = False,
    command: str = "",
) -> dict[str, object]:
    """Converts other projects' feature files to a feature store.

    Reads pickles without running them (`erc_toolkit.toolkit.exchange.unpickle`), but without limits on memory and time;
    for untrusted files use `erc_toolkit.toolkit.exchange.confined.convert_confined`.

    Args:
        files: paths; the first file (or the manifest) defines the utterances, the others add features to them. An
            array file or a folder of them may be given as "MODALITY=FILE" or "MODALITY/NAME=FILE".
        out: the store to create.
        manifest: defines the utterances if all files are arrays or folders: a manifest, a table with at least ids, or a
            label archive (`readers/tables.py`).
        corpus, labels, keep_zeros: as for `read_lists`.
        command: the command line, recorded as provenance.

    Returns:
        layouts (one per file), corpus, utterances, dialogues, labels, features (name to dim and present), problems.

    Raises:
        UserError: a file cannot be read, has an unknown layout, or does not match the others.
    """
    named = [
        (prefix if bar else None, Path(path if bar else prefix))
        for prefix, bar, path in (f.partition("=") for f in files)
    ]
    named = [(None, Path(f)) if Path(f).exists() else pair for f, pair in zip(files, named, strict=True)]
    for _, path in named:
        if not path.exists():
            raise UserError(f"{path}: no such file")
    notes: list[str] = []
    pack = None
    if manifest is not None:
        pack = _pack_of(tables.read_label_file(manifest, labels), corpus, labels)
    layouts = []
    for given, path in named:
        pack, layout = _add_file(pack, path, given, notes, corpus, labels, keep_zeros)
        layouts.append(layout)
    if pack is None:
        raise UserError("name at least one file")
    pack.problems = [*notes, *pack.problems]
    repair_texts(pack)
    write_pack(pack, out, command, [path for _, path in named])
    return {
        "layouts": layouts,
        "corpus": pack.corpus,
        "utterances": len(pack.utterances),
        "dialogues": len({u.dialogue for u in pack.utterances}),
        "labels": pack.labels,
        "features": {
            n: {"dim": m.values.shape[1], "present": sum(not r for r in m.reasons)} for n, m in pack.features.items()
        },
        "problems": pack.problems,
    }


def _pack_of(read: Manifest, corpus: str | None, labels: Sequence[str]) -> Pack:
    pack = arrays.pack_of(read.utterances, corpus or read.corpus, labels or read.labels)
    pack.problems += read.notes
    return pack


def _add_file(
    pack: Pack | None,
    path: Path,
    given: str | None,
    notes: list[str],
    corpus: str | None,
    labels: Sequence[str],
    keep_zeros: bool,
) -> tuple[Pack, str]:
    """Adds a file to the pack, or makes the pack from the first one; also returns the name of the file's layout."""
    if path.is_dir():
        return _add_folder(pack, path, given, keep_zeros), "folder"
    if tables.is_table(path):
        if pack is not None:
            raise UserError(f"{path}: a table defines the utterances; give it first, or as --manifest")
        return _pack_of(tables.read_table(path, labels), corpus, labels), "table"
    kind = file_kind(path).name
    if kind in ("npy", "npz") or (path.suffix.lower() in _ARRAYS and kind not in ("pickle", "torch")):
        return _add_arrays(pack, path, given, corpus, labels, keep_zeros)
    content: Any = bytes_to_texts(load_pickle(path, notes))
    if mmsa.is_mmsa(content) or splits.is_splits(content):
        if pack is not None:
            raise UserError(f"{path}: a file of splits cannot be combined with other files; convert it separately")
        return _read_splits(content, path, notes, corpus, labels, keep_zeros)
    layout = recognise(content)
    if layout is None:
        if pack is not None and (isinstance(content, np.ndarray) or _by_utterance(content, pack)):
            return _add_content(pack, content, path, given, keep_zeros), "arrays"
        known = ", ".join(layout.name for layout in LAYOUTS)
        hint = "; if its keys are utterances, add --manifest" if isinstance(content, Mapping) and pack is None else ""
        raise UserError(f"{path}: {describe(content)}; not one of the known layouts ({known}, mmsa){hint}")
    if pack is None:
        if "labels" not in layout.parts:
            raise UserError(
                f"{path}: has no labels (layout {layout.name}); put the file with speakers and labels before it"
            )
        pack = read_lists(content, layout, str(path), corpus=corpus, labels=labels, keep_zeros=keep_zeros)
    else:
        _add_lists(pack, content, layout, path, keep_zeros)
    return pack, layout.name


def _read_splits(
    content: Mapping, path: Path, notes: list[str], corpus: str | None, labels: Sequence[str], keep_zeros: bool
) -> tuple[Pack, str]:
    """Reads MMSA's layout, or one without its ids or labels."""
    if not mmsa.is_mmsa(content) or splits.is_splits_without_labels(content):
        content, name = splits.as_mmsa(content, str(path), notes), "splits"
    else:
        name = "mmsa"
    pack = mmsa.read_mmsa(content, str(path), corpus=corpus, labels=labels, keep_zeros=keep_zeros)
    pack.layout = name
    return pack, name


def _by_utterance(content: object, pack: Pack) -> bool:
    return isinstance(content, Mapping) and bool(match_names((u.id for u in pack.utterances), map(str, content)))


def _add_folder(pack: Pack | None, path: Path, given: str | None, keep_zeros: bool) -> Pack:
    if pack is None:
        raise UserError(
            f"{path}: a folder of arrays does not define the utterances; add --manifest, with their ids, dialogues, "
            "speakers, labels and splits, or put a file with them before it"
        )
    folders = npy_folder.features_in(path, given)
    for name, folder in folders:
        if name in pack.features:
            raise UserError(f"{folder}: {name} is already in a file before it; name it MODALITY/NAME={folder.name}")
        npy_folder.add_folder(pack, name, folder, keep_zeros)
    return pack


def _add_arrays(
    pack: Pack | None, path: Path, given: str | None, corpus: str | None, labels: Sequence[str], keep_zeros: bool
) -> tuple[Pack, str]:
    content: Any = arrays.load_arrays(path)
    name = "npz" if isinstance(content, Mapping) else "npy"
    if pack is not None:
        return _add_content(pack, content, path, given, keep_zeros), name
    if tables.is_label_archive(content):
        return _pack_of(tables.read_label_archive(content, path, labels), corpus, labels), "labels"
    if not arrays.is_store(content):
        raise UserError(f"{path}: an array file does not define the utterances; add --manifest")
    return arrays.read_store_arrays(content, str(path)), name


def _add_content(pack: Pack, content: object, path: Path, given: str | None, keep_zeros: bool) -> Pack:
    """Adds one array for all utterances, or a dictionary with one for each."""
    name = arrays.feature_name(path, given)
    if isinstance(content, Mapping):
        content = {str(key): value for key, value in content.items()}
        if len(content) == 1 and next(iter(content)) not in {u.id for u in pack.utterances}:
            content = next(iter(content.values()))
    if name in pack.features:
        raise UserError(f"{path}: {name} is already in a file before it; name it MODALITY/NAME={path.name}")
    if isinstance(content, Mapping):
        arrays.add_by_id(pack, name, content, keep_zeros)
    elif isinstance(content, np.ndarray) and content.dtype.kind in "fiu":
        arrays.add_array(pack, name, content, {}, keep_zeros)
    else:
        raise UserError(f"{path}: contains Python objects (pickles) instead of numbers; save an array of numbers")
    return pack


def _add_lists(pack: Pack, content: object, layout: Layout, path: Path, keep_zeros: bool) -> None:
    """Adds a tuple's features and, if the pack has no texts, its sentences."""
    parts = {"sentences": content} if isinstance(content, Mapping) else dict(zip(layout.parts, content, strict=True))
    known = dict.fromkeys(u.dialogue for u in pack.utterances)
    named = {}
    for entries in parts.values():
        if isinstance(entries, Mapping):
            named |= {dialogue_name(key, pack.corpus): key for key in entries if is_key(key)}
    matched = match_names(known, named)
    keys = {dialogue: named[name] for dialogue, name in matched.items()}
    if not keys:
        raise UserError(f"{path}: has no dialogue in common with the files before it")
    if unknown := len(named) - len(keys):
        pack.problems.append(f"{path.name}: {counted(unknown, 'dialogue')} not in the files before it; skipped")
    clash = [name for name in parts if name in pack.features]
    if clash:
        raise UserError(f"{path}: {clash[0]} is already in a file before it")
    add_features(pack, parts, keys, keep_zeros)
    sentences = parts.get("sentences")
    if sentences and not any(u.text for u in pack.utterances):
        lengths: dict[str, int] = {}
        for u in pack.utterances:
            lengths[u.dialogue] = lengths.get(u.dialogue, 0) + 1
        for i, u in enumerate(pack.utterances):
            entry = sentences.get(keys.get(u.dialogue))
            if entry_length(entry) == lengths[u.dialogue] and isinstance(entry[u.position], str):
                pack.utterances[i] = dataclasses.replace(u, text=entry[u.position])
