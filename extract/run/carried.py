"""Features of an existing store that a run does not extract: what of them still belongs to the utterances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ...toolkit.store import Feature, FeaturePart, FeatureStore, StoreWriter
from ...toolkit.store.summary import unpacked
from .described import SOURCE
from .jobs import CONTEXT, Corpus
from .rows.kept import KeptRows, StoreRows
from .rows.origins import UNKNOWN, FileFacts

CHANGED = "changed since it was extracted"
_ROWS = 1024  # at a time


@dataclass(frozen=True)
class Carried:
    """A feature that is copied to the new store.

    Attributes:
        feature: the feature.
        keys: what the rows of the new store are made from; None if the feature can be copied as it is.
        files: (identity, size, content) of the files of these rows.
    """

    feature: Feature
    keys: list[str] | None = None
    files: tuple[FileFacts, ...] = ()

    def write(self, writer: StoreWriter) -> None:
        """Copies the feature; rows of utterances that changed are masked."""
        if self.keys is None:
            writer.copy_feature(self.feature)
            return
        modality, name = self.feature.name.split("/")
        writer.add_feature_parts(
            modality,
            name,
            self.feature.dim,
            self._parts(self.keys),
            attrs=self.feature.attrs,
            dimension_names=self.feature.dimension_names(),
            frame_width=self.feature.frame_width,
            frame_names=self.feature.frame_names(),
            files=[(file.identity, file.size, file.content) for file in self.files],
        )

    def _parts(self, keys: list[str]) -> Iterator[FeaturePart]:
        feature = self.feature
        kept = _kept(feature)
        kinds = {name: column.dtype for name, column in feature.details().items()}
        for first in range(0, len(keys), _ROWS):
            here = keys[first : first + _ROWS]
            there = [i for i, key in enumerate(here) if key in kept]
            values = np.zeros((len(here), feature.dim), np.float32)
            reasons, made_from = [CHANGED] * len(here), [UNKNOWN] * len(here)
            details = {name: np.zeros(len(here), kind) for name, kind in kinds.items()}
            frames = [np.zeros((0, feature.frame_width), np.float32)] * len(here)
            times = [np.zeros(0)] * len(here)
            for i, row in zip(there, kept.take([here[i] for i in there]), strict=True):
                reasons[i], made_from[i] = row.reason, here[i]
                if row.values is not None:
                    values[i] = row.values
                if row.frames is not None and row.times is not None:
                    frames[i], times[i] = row.frames, row.times
                for name, value in row.details.items():
                    details[name][i] = value
            part = FeaturePart(first, values, reasons, details, made_from=made_from)
            if feature.has_sequences:
                counts = np.array([len(one) for one in frames], np.int64)
                part = FeaturePart(
                    first, values, reasons, details, np.concatenate(frames), counts, np.concatenate(times), made_from
                )
            yield part


def carry(
    old: FeatureStore, corpus: Corpus, extracted: Mapping[str, bool], notify: Callable[[str], None] = lambda line: None
) -> tuple[list[Carried], bool]:
    """The features of a store that are kept beside those that a run extracts.

    A row whose media or transcript changed is masked, and a feature of which nothing is left is not kept.

    Args:
        old: the store.
        corpus: the corpus of the run.
        extracted: "modality/name" of the features that the run extracts, and whether none of their rows changed.
        notify: called with a line for each feature that is not kept as it is.

    Returns:
        The features, and whether all of them are kept as they are.
    """
    found: dict[str, Carried] = {}
    same_rows = old.attrs.get("corpus_fingerprint") == corpus.fingerprint
    rest = [name for name in old.feature_names() if name not in extracted]
    derived = {name: source for name in rest if (source := _source_of(old.feature(name)))}
    for name in [*(name for name in rest if name not in derived), *derived]:
        feature = old.feature(name)
        origins = feature.made_from()
        if name in derived:
            source = derived[name]
            unchanged = extracted.get(source) or (source in found and found[source].keys is None)
            # Without any audio there is no prosody, and the texts were read without it.
            if same_rows and (unchanged or (source == SOURCE and source not in old.feature_names())):
                found[name] = Carried(feature)
            else:
                remedy = "extract it again" if source == SOURCE else "run erc-toolkit reduce again"
                notify(f"{name}: not kept, since {source} changed, from which it was made; {remedy}")
        elif origins is None:
            if same_rows:
                found[name] = Carried(feature)
            else:
                notify(f"{name}: not kept: the utterances changed, and it does not say what its rows were made from")
        else:
            corpus.files.learn(FileFacts(*one) for one in origins[1])
            modality = name.split("/")[0]
            context = feature.attrs.get(CONTEXT, 0)
            keys = corpus.keys(modality, context if isinstance(context, int) else 0)
            if keys == origins[0] and UNKNOWN not in keys:
                found[name] = Carried(feature)
                continue
            kept = set(origins[0]) - {UNKNOWN}
            present = {key for key, there in zip(origins[0], feature.present(), strict=True) if there}
            changed = sum(key not in kept for key in keys)
            if not present & set(keys):
                notify(f"{name}: {len(keys)} changed, left out until it is extracted again; 0 unchanged")
                continue
            found[name] = Carried(feature, keys, tuple(corpus.table(modality)))
            if changed:
                same = len(keys) - changed
                notify(f"{name}: {changed} changed, masked until it is extracted again; {same} unchanged")
    as_they_are = len(found) == len(rest) and all(one.keys is None for one in found.values())
    return list(found.values()), as_they_are


def _source_of(feature: Feature) -> str | None:
    """The feature that another one was made from by all of its rows, so that it cannot be kept row by row."""
    if source := feature.attrs.get("source"):
        return str(source)
    parameters = unpacked(feature.attrs.get("parameters", "{}"))
    return SOURCE if isinstance(parameters, dict) and "described" in parameters else None


def _kept(feature: Feature) -> KeptRows:
    kept = KeptRows()
    origins = feature.made_from()
    kept.add([] if origins is None else origins[0], StoreRows([feature]))
    return kept
