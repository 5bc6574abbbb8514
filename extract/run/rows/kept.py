"""Rows that earlier runs have computed, found by what they were made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ....toolkit.store import Feature, FeaturePart
from .origins import UNKNOWN


@dataclass(frozen=True)
class Row:
    """One row of a feature as `Rows.put` and `Rows.count` take it; `values` is None if `reason` is not empty."""

    values: np.ndarray | None
    reason: str
    details: Mapping[str, float]
    frames: np.ndarray | None = None
    times: np.ndarray | None = None


class Source(Protocol):
    """Where computed rows are."""

    def rows(self, numbers: Sequence[int]) -> Iterator[Row]:
        """The rows with these numbers, in that order."""
        ...


class KeptRows:
    """Computed rows by their keys (`extract.run.rows.origins`): where each is."""

    def __init__(self) -> None:
        self._places: dict[str, tuple[Source, int]] = {}

    def add(self, keys: Iterable[str], source: Source) -> None:
        """Adds a source whose rows have these keys; the first source that has a key is used."""
        for number, key in enumerate(keys):
            if key != UNKNOWN:
                self._places.setdefault(key, (source, number))

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def take(self, keys: Sequence[str]) -> Iterator[Row]:
        """The rows with these keys, in that order, of which all must be there."""
        first = 0
        while first < len(keys):
            source, number = self._places[keys[first]]
            end = first + 1
            while end < len(keys) and self._places[keys[end]][0] is source:
                end += 1
            yield from source.rows([self._places[key][1] for key in keys[first:end]])
            first = end


class PartRows:
    """The rows of a part, as read from its file by `read`, which is called when they are needed."""

    def __init__(self, read: Callable[[], FeaturePart]) -> None:
        self._read = read

    def rows(self, numbers: Sequence[int]) -> Iterator[Row]:
        """As in `Source`."""
        part = self._read()
        counts = part.counts
        ends = None if counts is None else np.concatenate([[0], np.cumsum(counts)])
        for number in numbers:
            details = {name: column[number] for name, column in part.details.items()}
            reason = part.reasons[number]
            if reason:
                yield Row(None, reason, details)
            elif ends is None or part.frames is None or part.times is None:
                yield Row(part.values[number], "", details)
            else:
                own = slice(ends[number], ends[number + 1])
                yield Row(part.values[number], "", details, part.frames[own], part.times[own])


class StoreRows:
    """The rows of a store's feature: of all matrices of an extractor, which share everything but their values."""

    def __init__(self, matrices: Sequence[Feature]):
        self._matrices, self._first = matrices, matrices[0]
        self._present, self._reasons = self._first.present(), self._first.reasons()
        self._details = self._first.details()

    def rows(self, numbers: Sequence[int]) -> Iterator[Row]:
        """As in `Source`."""
        first = 0
        while first < len(numbers):
            end = first + 1
            while end < len(numbers) and numbers[end] == numbers[end - 1] + 1:
                end += 1
            run = slice(numbers[first], numbers[end - 1] + 1)
            values = np.concatenate([matrix.values(run) for matrix in self._matrices], axis=1)
            for number, row in zip(numbers[first:end], values, strict=True):
                yield self._row(number, row)
            first = end

    def _row(self, number: int, values: np.ndarray) -> Row:
        details = {name: column[number] for name, column in self._details.items()}
        if not self._present[number]:
            return Row(None, self._reasons[number], details)
        if not self._first.has_sequences:
            return Row(values, "", details)
        return Row(values, "", details, *self._first.sequence(number))
