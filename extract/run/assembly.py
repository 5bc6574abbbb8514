"""Assembles finished parts into one feature store."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ...toolkit.base.errors import UserError
from ...toolkit.base.files import require_space
from ...toolkit.base.hashes import json_sha256
from ...toolkit.base.words import counted
from ...toolkit.manifest import load_manifest
from ...toolkit.store import FeaturePart, FeatureStore, StoreWriter
from .parts import ColumnNames, PartsFolder, corpus_fingerprint, difference


class NothingFound(UserError):
    """No utterance has a requested modality.

    Attributes:
        reason: the most frequent reason and how often it occurred.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def parts_root(out: Path) -> Path:
    """The folder in which a run keeps its finished parts, next to the store."""
    return out.with_name(out.name + ".parts")


def assemble(out: Path, roots: list[Path], command: str = "") -> None:
    """Joins finished parts into a store and removes them. Features already in the store are kept.

    Args:
        out: the store.
        roots: folders of parts, which together must contain every part of every feature.
        command: the command line, for the record.

    Raises:
        OSError: there is no space for the store on the disk.
        UserError: parts that are missing, damaged, or of different options.
        NothingFound: a feature without a single present row.
    """
    roots = [root for root in roots if root.is_dir()]
    if not roots:
        raise UserError(f"{parts_root(out)}: no such folder of parts; run erc-toolkit extract --shard first")
    manifest = load_manifest(roots[0] / "manifest.jsonl")
    names = sorted({folder.name for root in roots for folder in root.iterdir() if (folder / "feature.json").exists()})
    if not names:
        raise UserError(f"{roots[0]}: contains no finished part; run erc-toolkit extract again")
    readers = {
        name: _Assembly(name, [r / name for r in roots if (r / name / "feature.json").exists()]) for name in names
    }
    corpus = corpus_fingerprint(manifest)
    for reader in readers.values():
        reader.check(len(manifest.utterances), corpus)
    old = FeatureStore.open(out) if out.exists() else None
    rows = sum(part.stat().st_size for root in roots for part in root.glob("*/*.npz"))
    try:
        # HDF5 does not survive a failed write, so the free space is checked first.
        require_space(
            out, int(1.1 * rows) + (out.stat().st_size if old else 0) + (roots[0] / "manifest.jsonl").stat().st_size
        )
        with StoreWriter(
            out,
            corpus=manifest.corpus,
            labels=manifest.labels,
            utterances=manifest.utterances,
            command=command if old is None else f"{old.attrs['command']} && {command}",
            attrs={"notes": json.dumps(manifest.notes, ensure_ascii=False), "corpus_fingerprint": corpus},
        ) as writer:
            new = {
                f"{reader.plan['modality']}/{matrix}"
                for reader in readers.values()
                for matrix in reader.plan["matrices"]
            }
            if old is not None:
                for name in old.feature_names():
                    if name not in new:
                        writer.copy_feature(old.feature(name))
            for name, reader in readers.items():
                plan = reader.plan
                for index, (matrix, attributes) in enumerate(plan["matrices"].items()):
                    writer.add_feature_parts(
                        plan["modality"],
                        matrix,
                        plan["dim"],
                        reader.parts(index),
                        attrs={
                            **plan["provenance"],
                            **attributes,
                            "options": reader.options(),
                            "fingerprint": json_sha256(plan),
                        },
                        **reader.names(),
                    )
                if reader.present == 0:
                    reason, n = reader.reasons.most_common(1)[0]
                    reader.discard()
                    most = f"{reason!r} for {counted(n, 'utterance')}"
                    raise NothingFound(
                        f"no utterance has {name.replace('--', '/', 1)}: {most}; nothing was written to {out}", most
                    )
    finally:
        if old is not None:
            old.close()
    for root in roots:
        shutil.rmtree(root)


class _Assembly:
    """The parts of one feature, from all folders."""

    def __init__(self, name: str, folders: list[Path]):
        plans = [json.loads((folder / "feature.json").read_text(encoding="utf-8")) for folder in folders]
        for other, folder in zip(plans, folders, strict=True):
            if other != plans[0]:
                raise UserError(
                    f"{folder}: extracted with {difference(other, plans[0], word='but')} in {folders[0]}; they cannot "
                    "be joined"
                )
        self.name, self.plan = name, plans[0]
        self._folders = [PartsFolder(folder, self.plan) for folder in folders]
        self.present, self.reasons = 0, Counter()

    def check(self, rows: int, corpus: str) -> None:
        if self.plan["corpus"] != corpus:
            raise UserError(
                f"{self._folders[0].folder}: extracted from a different manifest than manifest.jsonl next to it"
            )
        parts = len(self.plan["parts"])
        missing = [i for i in range(parts) if not any(f.has(i) for f in self._folders)]
        if missing:
            raise UserError(
                f"{self.name}: {len(missing)} of {counted(parts, 'part')} missing (the first is part {missing[0]}); "
                "finish every shard before merging"
            )

    def discard(self) -> None:
        """Removes the parts, so that the next run tries again, whatever the problem was."""
        for folder in self._folders:
            shutil.rmtree(folder.folder)
            if not any(path.is_dir() for path in folder.folder.parent.iterdir()):
                shutil.rmtree(folder.folder.parent)

    def options(self) -> dict[str, object]:
        """The command-line options that the feature depends on."""
        return json.loads((self._folders[0].folder / "options.json").read_text(encoding="utf-8"))

    def names(self) -> ColumnNames:
        """Names of the matrix's columns, and number and names of its frames' columns."""
        return json.loads((self._folders[0].folder / "names.json").read_text(encoding="utf-8"))

    def parts(self, matrix: int) -> Iterator[FeaturePart]:
        """The parts of one of the feature's matrices (counted from 0)."""
        columns = slice(matrix * self.plan["dim"], (matrix + 1) * self.plan["dim"])
        self.present, self.reasons = 0, Counter()
        for i in range(len(self.plan["parts"])):
            rows = next(f for f in self._folders if f.has(i)).read(i)
            self.present += sum(not reason for reason in rows.reasons)
            self.reasons.update(reason for reason in rows.reasons if reason)
            yield replace(rows, values=rows.values[:, columns])
