"""What every reader of a corpus must hold."""

from __future__ import annotations

from pathlib import Path

from erc_toolkit.extract.corpora.registry import read_corpus
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.manifest import load_manifest, write_manifest


def round_trips(name: str, tmp_path: Path) -> None:
    """A manifest that a reader returns can be written and read; otherwise there is a one-line error."""
    try:
        manifest = read_corpus(name, tmp_path / "mine")
    except UserError as error:
        assert error.message and "\n" not in error.message
        return
    write_manifest(manifest, tmp_path / "m.jsonl")
    back = load_manifest(tmp_path / "m.jsonl")
    assert (back.utterances, back.notes, back.labels) == (manifest.utterances, manifest.notes, manifest.labels)
