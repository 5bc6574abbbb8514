"""The manifest: one utterance per line, the only thing that extraction sees of a corpus.

A manifest file is JSON Lines (or CSV). In JSON Lines the first line may be a header, an object with the key
`erc_manifest` (the schema version) and `corpus`, `labels` (names in index order), `root` (the folder that media
paths are relative to, itself relative to the manifest file) and `notes`. docs/reference/manifest.md describes every
field.
"""

from .files import TABLE_SUFFIXES, is_unchanged, load_manifest, write_manifest
from .rows import manifest_from_rows
from .utterances import MODALITIES, SCHEMA, SPLITS, Manifest, Utterance, path_problem

__all__ = [
    "MODALITIES",
    "SCHEMA",
    "SPLITS",
    "TABLE_SUFFIXES",
    "Manifest",
    "Utterance",
    "is_unchanged",
    "load_manifest",
    "manifest_from_rows",
    "path_problem",
    "write_manifest",
]
