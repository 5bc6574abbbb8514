"""Assembles finished parts into one feature store."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...toolkit.base.errors import UserError
from ...toolkit.base.files import require_space
from ...toolkit.base.hashes import json_sha256
from ...toolkit.base.lock import locked
from ...toolkit.base.words import counted
from ...toolkit.manifest import Manifest, load_manifest
from ...toolkit.store import FeaturePart, FeatureStore, StoreWriter
from .carried import Carried
from .jobs import CONTEXT, Corpus, Job, columns_of, context_of
from .rows.origins import FileFacts
from .rows.parts import ColumnNames, FeaturePlan, PartsFolder, corpus_fingerprint, difference


class NothingFound(UserError):
    """No utterance has a requested modality.

    Attributes:
        reasons: the reason of every utterance, in order.
    """

    def __init__(self, message: str, reasons: list[str]) -> None:
        super().__init__(message)
        self.reasons = reasons


def parts_root(out: Path) -> Path:
    """The folder in which a run keeps its finished parts, next to the store."""
    return out.with_name(out.name + ".parts")


@dataclass(frozen=True)
class Finished:
    """A feature whose rows are all computed.

    Attributes:
        plan: what it depends on.
        parts: called for its parts in order.
        columns: names of its columns and frames.
        options: the command-line options that it depends on.
        context: number of earlier turns that a text was read with.
        files: the media files that its rows were made from.
        discard: called to remove the parts if no row is present.
        size: of the parts in bytes.
    """

    plan: FeaturePlan
    parts: Callable[[], Iterator[FeaturePart]]
    columns: ColumnNames
    options: Mapping[str, object]
    context: int
    files: Sequence[FileFacts]
    discard: Callable[[], object]
    size: int

    def write(self, writer: StoreWriter, out: Path) -> None:
        """Writes the feature.

        Raises:
            NothingFound: none of its rows is present.
        """
        plan, present = self.plan, 0
        reasons: list[str] = []  # of the rows so far, as long as none is present

        def of_matrix(index: int) -> Iterator[FeaturePart]:
            nonlocal present
            columns = slice(index * plan["dim"], (index + 1) * plan["dim"])
            for part in self.parts():
                if index == 0:
                    present += sum(not reason for reason in part.reasons)
                    if not present:
                        reasons.extend(part.reasons)
                yield replace(part, values=part.values[:, columns])

        for index, (matrix, attributes) in enumerate(plan["matrices"].items()):
            own = {**plan["provenance"], **attributes, "options": self.options, "fingerprint": json_sha256(plan)}
            if plan["modality"] == "text":
                own[CONTEXT] = self.context
            writer.add_feature_parts(
                plan["modality"],
                matrix,
                plan["dim"],
                of_matrix(index),
                attrs=own,
                files=[(file.identity, file.size, file.content) for file in self.files],
                **self.columns,
            )
        if not present:
            reason, n = Counter(reasons).most_common(1)[0]
            self.discard()
            most = f"{reason!r} for {counted(n, 'utterance')}"
            name = f"{plan['modality']}/{plan['name']}"
            raise NothingFound(f"no utterance has {name}: {most}; nothing was written to {out}", reasons)


def assemble(
    out: Path,
    manifest: Manifest,
    finished: Sequence[Finished],
    carried: Sequence[Carried],
    old: FeatureStore | None,
    command: str = "",
) -> None:
    """Writes a store of finished features and of those of an older store that are kept.

    Raises:
        OSError: there is no space for the store on the disk.
        NothingFound: a feature without a single present row.
    """
    size = sum(one.size for one in finished) + (old.path.stat().st_size if old is not None else 0)
    texts = sum(len(u.text) + 200 for u in manifest.utterances)
    require_space(out, int(1.1 * size) + 4 * texts)  # HDF5 does not survive a failed write, so it is checked first
    with StoreWriter(
        out,
        corpus=manifest.corpus,
        labels=manifest.labels,
        utterances=manifest.utterances,
        command=command if old is None else f"{old.attrs['command']} && {command}",
        attrs={
            "notes": json.dumps(manifest.notes, ensure_ascii=False),
            "corpus_fingerprint": corpus_fingerprint(manifest),
        },
    ) as writer:
        for one in carried:
            one.write(writer)
        for one in finished:
            one.write(writer, out)


def finished_job(job: Job, corpus: Corpus) -> Finished:
    """The feature of a job whose parts are all done."""
    folder = job.folder.folder
    return Finished(
        job.folder.plan,
        job.finished_parts,
        columns_of(job.planned.extractor),
        job.planned.options,
        context_of(job.planned.extractor.wants),
        corpus.table(job.modality),
        lambda: discard(folder),
        sum(part.stat().st_size for part in folder.glob("*.npz")),
    )


def discard(folder: Path) -> None:
    """Removes a feature's parts, so that the next run tries again, whatever the problem was."""
    shutil.rmtree(folder)
    if not any(path.is_dir() for path in folder.parent.iterdir()):
        shutil.rmtree(folder.parent)


def merge(out: Path, roots: Sequence[Path], command: str = "", overwrite: bool = False) -> None:
    """Joins the parts of shards into a store and removes them. Features already in the store are kept.

    Args:
        out: the store.
        roots: folders of parts, which together must contain every part of every feature.
        command: the command line, for the record.
        overwrite: ignore what is at `out`, and replace it.

    Raises:
        OSError: there is no space for the store on the disk.
        UserError: parts that are missing, damaged, or of different options or utterances; or another process writes it.
        NothingFound: a feature without a single present row.
    """
    with locked(out, "merge"):
        _merge(out, roots, command, overwrite)


def _merge(out: Path, roots: Sequence[Path], command: str, overwrite: bool) -> None:
    roots = [root for root in roots if root.is_dir()]
    if not roots:
        raise UserError(f"{parts_root(out)}: no such folder of parts; run erc-toolkit extract --shard first")
    manifest = load_manifest(roots[0] / "manifest.jsonl")
    names = sorted({folder.name for root in roots for folder in root.iterdir() if (folder / "feature.json").exists()})
    if not names:
        raise UserError(f"{roots[0]}: contains no finished part; run erc-toolkit extract again")
    corpus = corpus_fingerprint(manifest)
    finished = [_Shards([r / name for r in roots if (r / name / "feature.json").exists()], corpus) for name in names]
    old = FeatureStore.open(out) if out.exists() and not overwrite else None
    try:
        carried = []
        if old is not None:
            if old.attrs.get("corpus_fingerprint") != corpus:
                raise UserError(f"{out}: has other utterances than the parts; choose another name for the store")
            new = {f"{one.plan['modality']}/{matrix}" for one in finished for matrix in one.plan["matrices"]}
            carried = [Carried(old.feature(name)) for name in old.feature_names() if name not in new]
        assemble(out, manifest, [one.finished() for one in finished], carried, old, command)
    finally:
        if old is not None:
            old.close()
    for root in roots:
        shutil.rmtree(root)


class _Shards:
    """The parts of one feature, from all folders."""

    def __init__(self, folders: list[Path], corpus: str):
        plans = [json.loads((folder / "feature.json").read_text(encoding="utf-8")) for folder in folders]
        for other, folder in zip(plans, folders, strict=True):
            if other != plans[0]:
                raise UserError(
                    f"{folder}: extracted with {difference(other, plans[0], word='but')} in {folders[0]}; they cannot "
                    "be joined"
                )
        self.plan = plans[0]
        self._folders = [PartsFolder(folder, self.plan) for folder in folders]
        self._layout: dict[str, Any] = {}
        self._places: dict[int, tuple[PartsFolder, str]] = {}
        for folder in self._folders:
            for path in sorted(folder.folder.glob("shard-*.json")):
                self._add(folder, path, corpus)
        if not self._layout:
            raise UserError(f"{folders[0]}: extracted from a different manifest than manifest.jsonl next to it")
        parts = len(self._layout["parts"])
        missing = [i for i in range(parts) if i not in self._places]
        if missing:
            raise UserError(
                f"{folders[0].name}: {len(missing)} of {counted(parts, 'part')} missing (the first is part "
                f"{missing[0]}); finish every shard before merging"
            )

    def _add(self, folder: PartsFolder, path: Path, corpus: str) -> None:
        """Adds the finished parts of one shard, unless it is of another manifest."""
        layout = json.loads(path.read_text(encoding="utf-8"))
        if layout["corpus"] != corpus:
            return
        if self._layout and layout["parts"] != self._layout["parts"]:
            raise UserError(f"{path}: extracted with another --part-size than the other shards; they cannot be joined")
        self._layout = layout
        for index, name in layout["files"].items():
            if folder.has(name):
                self._places[int(index)] = folder, name

    def finished(self) -> Finished:
        """The feature as `assemble` takes it."""
        first = self._folders[0].folder
        places = [self._places[i] for i in sorted(self._places)]
        files = {file for folder, name in places for file in folder.read_origins(name)[1]}
        return Finished(
            self.plan,
            lambda: (folder.read(name) for folder, name in places),
            json.loads((first / "names.json").read_text(encoding="utf-8")),
            json.loads((first / "options.json").read_text(encoding="utf-8")),
            self._layout["context"],
            sorted(files, key=lambda file: (file.identity, file.content)),
            lambda: list(map(discard, (folder.folder for folder in self._folders))),
            sum((folder.folder / name).stat().st_size for folder, name in places),
        )
