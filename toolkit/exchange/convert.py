"""Recognises the layouts of other projects' files and converts them to one store."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..base.errors import UserError
from ..base.words import counted
from ..manifest import load_manifest
from . import arrays, mmsa
from .layouts import LAYOUTS, Layout, describe, recognise
from .pack import Pack, entry_length, write_pack
from .read_lists import add_features, dialogue_name, read_lists
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
            array file may be given as "MODALITY=FILE" or "MODALITY/NAME=FILE".
        out: the store to create.
        manifest: defines the utterances if all files are arrays.
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
    named = [(None, Path(f)) if Path(f).is_file() else pair for f, pair in zip(files, named, strict=True)]
    for _, path in named:
        if not path.is_file():
            raise UserError(f"{path}: no such file")
    pack = None
    if manifest is not None:
        read = load_manifest(manifest)
        pack = arrays.pack_of(read.utterances, corpus or read.corpus, labels or read.labels)
    layouts = []
    for given, path in named:
        if path.suffix.lower() in _ARRAYS:
            pack = _add_arrays(pack, path, given, keep_zeros)
            layouts.append(path.suffix[1:].lower())
            continue
        content = load_pickle(path)
        if mmsa.is_mmsa(content):
            layouts.append("mmsa")
            if pack is not None:
                raise UserError(f"{path}: MMSA's layout cannot be combined with other files; convert it separately")
            pack = mmsa.read_mmsa(content, str(path), corpus=corpus, labels=labels, keep_zeros=keep_zeros)
            continue
        layout = recognise(content)
        if layout is None:
            known = ", ".join(layout.name for layout in LAYOUTS)
            raise UserError(f"{path}: {describe(content)}; not one of the known layouts ({known}, mmsa)")
        layouts.append(layout.name)
        if pack is None:
            if "labels" not in layout.parts:
                raise UserError(
                    f"{path}: has no labels (layout {layout.name}); put the file with speakers and labels before it"
                )
            pack = read_lists(content, layout, str(path), corpus=corpus, labels=labels, keep_zeros=keep_zeros)
        else:
            _add_lists(pack, content, layout, path, keep_zeros)
    if pack is None:
        raise UserError("name at least one file")
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


def _add_arrays(pack: Pack | None, path: Path, given: str | None, keep_zeros: bool) -> Pack:
    content = arrays.load_arrays(path)
    if pack is None:
        if not arrays.is_store(content):
            raise UserError(f"{path}: an array file does not define the utterances; add --manifest")
        return arrays.read_store_arrays(content, str(path))
    if (
        isinstance(content, Mapping)
        and len(content) == 1
        and next(iter(content)) not in {u.id for u in pack.utterances}
    ):
        content = next(iter(content.values()))
    name = arrays.feature_name(path, given)
    if isinstance(content, Mapping):
        arrays.add_by_id(pack, name, content, keep_zeros)
    else:
        arrays.add_array(pack, name, content, {}, keep_zeros)
    return pack


def _add_lists(pack: Pack, content: object, layout: Layout, path: Path, keep_zeros: bool) -> None:
    """Adds a tuple's features and, if the pack has no texts, its sentences."""
    parts = {"sentences": content} if isinstance(content, Mapping) else dict(zip(layout.parts, content, strict=True))
    known = {u.dialogue for u in pack.utterances}
    keys = {}
    for entries in parts.values():
        if isinstance(entries, Mapping):
            keys |= {dialogue_name(key, pack.corpus): key for key in entries if isinstance(key, (str, int))}
    if not keys.keys() & known:
        raise UserError(f"{path}: has no dialogue in common with the files before it")
    if unknown := len(keys.keys() - known):
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
