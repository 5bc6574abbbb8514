"""What an earlier run left at a place that this run writes to, and whether this run may go on from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ....toolkit.base.errors import UserError
from ....toolkit.base.files import write_atomically
from ....toolkit.base.outputs import check_folder
from ....toolkit.manifest import Manifest
from ....toolkit.store import FeatureStore
from .parts import corpus_fingerprint

_CROPS = ".face-crops-of-erc-toolkit"  # marks a folder of --save-crops
_REMEDY = "choose another --out, or replace the store with --overwrite"


@contextmanager
def earlier_store(
    out: Path, manifest: Manifest, other_corpus: bool, shard: tuple[int, int] | None
) -> Iterator[FeatureStore | None]:
    """The store of an earlier run, whose rows can be kept, or None if there is none.

    Args:
        out: the store.
        manifest: of this run.
        other_corpus: whether the store may be of a corpus that has no utterance in common with the manifest.
        shard: of this run.

    Raises:
        UserError: it is a store that this run must not replace.
    """
    if not out.exists():
        yield None
        return
    with FeatureStore.open(out) as old:
        if "converted_from" in old.attrs:
            raise UserError(f"{out}: was made by erc-toolkit convert; {_REMEDY}")
        if not other_corpus:
            if old.corpus != manifest.corpus:
                raise UserError(f"{out}: is of the corpus {old.corpus!r}, not {manifest.corpus!r}; {_REMEDY}")
            if {u.id for u in manifest.utterances}.isdisjoint(old.column("id").tolist()):
                raise UserError(f"{out}: has none of the manifest's utterances; {_REMEDY}")
        if shard is not None and old.attrs.get("corpus_fingerprint") != corpus_fingerprint(manifest):
            raise UserError(f"{out}: has other utterances than the manifest, so it takes no shards; {_REMEDY}")
        yield old


def check_crops(folder: Path, inputs: list[Path], overwrite: bool) -> None:
    """Checks that the folder of `--save-crops` may be written to.

    Raises:
        UserError: it has files that no extraction put there, or belongs to the input.
    """
    marker = folder / _CROPS
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    check_folder(folder, names, inputs, earlier=lambda _: marker.exists(), overwrite=overwrite, option="--save-crops")


def make_crops(folder: Path) -> None:
    """Creates the folder of `--save-crops`, marked as one."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / _CROPS, b"")
