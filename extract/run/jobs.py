"""The work that a run has to do: which rows of each feature are new or changed, and which are kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...toolkit.base.errors import UserError
from ...toolkit.base.files import write_atomically
from ...toolkit.base.hashes import json_sha256
from ...toolkit.manifest import Manifest
from ...toolkit.store import FeaturePart, FeatureStore
from ...toolkit.store.summary import unpacked
from ..encoders.base import Extractor, Texts
from .context import turns
from .extractors import RunExtractor
from .rows.kept import KeptRows, PartRows, StoreRows
from .rows.origins import FileFacts, KnownFiles, keys_of_media, media_key, source_of, text_key
from .rows.parts import (
    ColumnNames,
    FeaturePlan,
    PartsFolder,
    Rows,
    corpus_fingerprint,
    difference,
    divide,
    empty_rows,
    matrices_of,
    shard_of,
)

# A part of texts is larger than a part of media: texts are cheaper, and batches need texts of similar length.
TEXT_PARTS = 8
CONTEXT = "context_turns"  # attribute of a text feature: how many earlier turns its rows were made from


@dataclass(frozen=True)
class Corpus:
    """A manifest, and what is known of its media files.

    Attributes:
        manifest: the manifest.
        files: what is known of the files.
        fingerprint: of the manifest.
    """

    manifest: Manifest
    files: KnownFiles
    fingerprint: str

    @classmethod
    def of(cls, manifest: Manifest, check_content: bool) -> Corpus:
        """A manifest of which no file is known yet; `check_content` reads every file that might be unchanged."""
        return cls(manifest, KnownFiles(check_content), corpus_fingerprint(manifest))

    def keys(self, modality: str, context: int, sentences: Sequence[str] = ()) -> list[str]:
        """The key of each row of a feature, `UNKNOWN` where the content of its file is new.

        Args:
            modality: of the feature.
            context: number of earlier turns that a text is read with.
            sentences: that describe how each utterance is spoken, if texts are read with them.
        """
        utterances = self.manifest.utterances
        if modality == "text":
            given = turns(self.manifest, range(len(utterances)), context, sentences)
            return [text_key(turn, u.mask.get("text", "")) for turn, u in zip(given, utterances, strict=True)]
        paths = {path for u in utterances if (path := source_of(u, modality)[0]) is not None}
        return keys_of_media(utterances, modality, {path: self.files.content(self.path(path)) for path in paths})

    def marks(self, modality: str, keys: Sequence[str]) -> list[str]:
        """For each row a text that stays the same as long as nobody touches its file."""
        if modality == "text":
            return list(keys)
        return [
            media_key(u, modality, self.files.identity(self.path(path)) or "none")
            if (path := source_of(u, modality)[0])
            else key
            for u, key in zip(self.manifest.utterances, keys, strict=True)
        ]

    def path(self, relative: str) -> Path:
        """The location of a media file."""
        return self.manifest.path(relative)

    def table(self, modality: str, rows: Sequence[int] | None = None) -> list[FileFacts]:
        """What is known of the files of a modality, for the store; of some rows, or of all. Texts have none."""
        if modality == "text":
            return []
        utterances = self.manifest.utterances
        some = utterances if rows is None else [utterances[row] for row in rows]
        paths = {path for u in some if (path := source_of(u, modality)[0]) is not None}
        return self.files.table(map(self.path, sorted(paths)))


@dataclass
class Job:
    """One feature of a run: its extractor, its parts, and which of their rows are still to do.

    Attributes:
        planned: the extractor.
        folder: the parts on disk.
        parts: the rows of each part.
        names: the file name of each part.
        keys: what each row is made from, as far as known before its file is read.
        kept: rows that earlier runs have computed.
        todo: indices of the parts that this run has to write.
        unchanged: whether the store has all rows in this order, so that the feature can be copied as it is.
        sentences: for each utterance of the manifest how it is spoken, if texts are read with it.
    """

    planned: RunExtractor
    folder: PartsFolder
    parts: list[range]
    names: list[str]
    keys: list[str]
    kept: KeptRows
    todo: list[int] = field(default_factory=list)
    unchanged: bool = False
    sentences: Sequence[str] = ()

    @property
    def modality(self) -> str:
        return self.planned.modality

    @property
    def key(self) -> str:
        """The feature's name in the run."""
        return self.planned.key

    @property
    def complete(self) -> bool:
        """Whether earlier runs have computed all rows."""
        return all(key in self.kept for key in self.keys)

    def rows_todo(self, index: int) -> list[int]:
        """The rows of a part that have to be computed."""
        return [row for row in self.parts[index] if self.keys[row] not in self.kept]

    def begin(self, index: int) -> Rows:
        """The rows of a part; those that earlier runs have computed are there already."""
        part, todo = self.parts[index], self.rows_todo(index)
        rows = empty_rows(part, todo, self.planned.extractor)
        kept = [row for row in part if row not in rows.todo]
        for row, found in zip(kept, self.kept.take([self.keys[row] for row in kept]), strict=True):
            rows.keep(row, found, self.keys[row])
        return rows

    def write(self, index: int, rows: Rows, files: Sequence[FileFacts] = ()) -> None:
        """Writes a finished part; `files` are those that were read for it."""
        self.folder.write(self.names[index], rows.finished(), files)

    def finished_parts(self) -> Iterator[FeaturePart]:
        """All parts in order, from disk, or those without a new row from where their rows are."""
        for index, name in enumerate(self.names):
            yield self.folder.read(name) if self.folder.has(name) else self.begin(index).finished()

    def describe(self, old_ids: frozenset[str], ids: Sequence[str]) -> str:
        """A line on how many rows are kept and how many are not."""
        todo = [ids[row] for row, key in enumerate(self.keys) if key not in self.kept]
        new = sum(one not in old_ids for one in todo)
        counts = {
            "changed": len(todo) - new,
            "new": new,
            "unchanged": len(ids) - len(todo),
            "gone": len(old_ids - set(ids)),
        }
        matrices = ", ".join(matrices_of(self.planned.extractor))
        return f"{self.modality}/{matrices}: " + ", ".join(f"{n} {what}" for what, n in counts.items())


def plan_of(planned: RunExtractor) -> FeaturePlan:
    """Everything that a feature's values depend on besides its utterances."""
    encoder = planned.extractor
    return {
        "modality": encoder.modality,
        "name": encoder.name,
        "dim": encoder.dim,
        "frame_width": encoder.frame_width,
        "matrices": matrices_of(encoder),
        "provenance": planned.provenance,
    }


def make_job(
    corpus: Corpus,
    old: FeatureStore | None,
    root: Path,
    planned: RunExtractor,
    part_size: int,
    shard: tuple[int, int] | None,
    sentences: Sequence[str] = (),
) -> Job:
    """Compares a feature's rows with those of the store and of unfinished work.

    Args:
        corpus: the corpus.
        old: the store that an earlier run wrote, or None.
        root: the folder of parts.
        planned: the extractor.
        part_size: number of rows of a part.
        shard: (i, n), shard i of n; None for all parts.
        sentences: for each utterance how it is spoken, if the extractor reads texts with it.

    Raises:
        UserError: the store, or unfinished work, has the feature with other options.
    """
    encoder = planned.extractor
    modality, context = encoder.modality, context_of(encoder.wants)
    plan = plan_of(planned)
    kept = KeptRows()
    there = matrices_there(old, plan, planned.request.named)
    origins = None if old is None or not there else old.feature(there[0]).made_from()
    if old is not None and origins is not None:
        corpus.files.learn(FileFacts(*one) for one in origins[1])
        kept.add(origins[0], StoreRows([old.feature(name) for name in there]))
    folder = PartsFolder(root / f"{modality}--{encoder.name.replace('/', '--')}", plan)
    for name in folder.names():
        keys, files = folder.read_origins(name)
        corpus.files.learn(files)
        kept.add(keys, PartRows(lambda name=name: folder.read(name)))
    parts = divide(corpus.manifest, part_size * (TEXT_PARTS if modality == "text" else 1))
    keys = corpus.keys(modality, context, sentences)
    marks = corpus.marks(modality, keys)
    names = [_part_name(index, [marks[row] for row in part]) for index, part in enumerate(parts)]
    job = Job(planned, folder, parts, names, keys, kept, sentences=sentences)
    job.unchanged = origins is not None and origins[0] == keys and job.complete
    mine = range(len(parts)) if shard is None else shard_of(parts, shard)
    for index in mine:
        if folder.has(names[index]):
            continue
        if job.rows_todo(index):
            job.todo.append(index)
        elif shard is not None:  # whoever merges the shards has no other source
            job.write(index, job.begin(index), corpus.table(modality, parts[index]))
    return job


def record_job(job: Job, corpus: Corpus, shard: tuple[int, int] | None) -> None:
    """Writes beside the parts what `merge` needs: the names of columns, and which file is which part of this corpus."""
    encoder = job.planned.extractor
    write_atomically(job.folder.folder / "names.json", json.dumps(columns_of(encoder)).encode())
    # Not part of the fingerprint: a model that was moved to another folder is still the same model.
    write_atomically(job.folder.folder / "options.json", json.dumps(job.planned.options).encode())
    number, of = shard or (1, 1)
    mine = shard_of(job.parts, (number, of))
    layout = {
        "corpus": corpus.fingerprint,
        "context": context_of(encoder.wants),
        "parts": [[part.start, part.stop] for part in job.parts],
        "files": {str(index): job.names[index] for index in mine},
    }
    write_atomically(job.folder.folder / f"shard-{number}-of-{of}.json", json.dumps(layout).encode())


def columns_of(extractor: Extractor) -> ColumnNames:
    """The names of an extractor's columns."""
    return {
        "dimension_names": list(extractor.dimension_names),
        "frame_width": extractor.frame_width,
        "frame_names": list(extractor.frame_names),
    }


def context_of(wants: object) -> int:
    """How many earlier turns an extractor reads with a text."""
    return wants.context if isinstance(wants, Texts) else 0


def _part_name(index: int, marks: list[str]) -> str:
    return f"{index:05d}-{json_sha256(marks)[:12]}.npz"


def matrices_there(old: FeatureStore | None, plan: FeaturePlan, named: bool = False) -> list[str]:
    """The matrices of a feature that the store has.

    Stores are written as a whole, so if one matrix of an encoder is there, all of them are.

    Args:
        old: the store.
        plan: of the feature.
        named: whether the feature was asked for by a line, which can give it another name.

    Raises:
        UserError: they were extracted with other options.
    """
    if old is None:
        return []
    names = {f"{plan['modality']}/{matrix}": matrix for matrix in plan["matrices"]}
    there = [name for name in names if name in old.feature_names()]
    for name in there:
        attrs = old.feature(name).attrs
        found = {k: unpacked(v) for k, v in attrs.items() if k not in ("fingerprint", "options", CONTEXT)}
        new: dict[str, Any] = json.loads(json.dumps({**plan["provenance"], **plan["matrices"][names[name]]}))
        width = old.feature(name).frame_width
        if found != new or width != plan["frame_width"]:
            what = difference({**found, "frame_width": width}, {**new, "frame_width": plan["frame_width"]})
            naming = "give this one a name with @name=NAME, " if named else ""
            raise UserError(
                f"{old.path}: {name} was extracted with {what}; {naming}choose another --out, or replace the store "
                "with --overwrite"
            )
    return there
