"""Who speaks when: voices of windows grouped into people, and the people along the voiced spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

Span = tuple[float, float]

# Windows as voice encoders are trained on them; half of each is the next one's.
WINDOW_S, HOP_S = 1.5, 0.75
LEAST_WINDOW_S = 0.4  # a shorter voice has no vector
# Two groups of windows are different people if their mean distance is above this many times the median distance of
# windows that overlap by half, nearly all of which are one person's. docs/how-to/recordings.md says how it was found.
PEOPLE_RATIO = 2.3
_LEAST_PERSON_S, _LEAST_PERSON_SHARE = 2.0, 0.02  # of all voice; a smaller group is nobody's, but a cough or a laugh
_MOST_WINDOWS = 3000  # that are compared with each other: 36 MB of distances, 38 minutes of voice
_CELL_S = 0.25
# Windows whose share (`_shares`) is below this part of the recording's median lie between two people.
_BETWEEN_SHARE = 0.85
# What a change of the speaker costs, in seconds of cells that fit the other as well as they can.
_CHANGE_COST_S = 0.5


@dataclass(frozen=True)
class Run:
    """A stretch of voice of one person.

    Attributes:
        start, end: in seconds.
        speaker: number of the person, from 0, in order of appearance.
        confidence: 0 to 1: how much nearer the windows are to this person than to the next one; 1 with one person.
        between: seconds of it whose windows lie between two people, as where both speak.
        voiced: whether windows decided; otherwise the neighbours did, as it is too short for one.
    """

    start: float
    end: float
    speaker: int
    confidence: float = 1.0
    between: float = 0.0
    voiced: bool = True


@dataclass(frozen=True)
class People:
    """The people of a recording.

    Attributes:
        centres: float32 (people, dimensions) of length 1.
        distance: the mean cosine distance above which groups were different people; None if their number was given.
        measured: whether `distance` is the encoder's own, and not from the recording.
    """

    centres: np.ndarray
    distance: float | None
    measured: bool = False


def windows_of(spans: Sequence[Span]) -> list[Span]:
    """The windows of voiced spans in seconds: 0.4 to 1.5 s long, each inside of one span."""
    found: list[Span] = []
    for start, end in spans:
        if end - start < LEAST_WINDOW_S:
            continue
        at = start
        while end - at > WINDOW_S:
            found.append((at, at + WINDOW_S))
            at += HOP_S
        if end - at >= WINDOW_S / 2 or at == start:
            found.append((at, end))
        else:
            found.append((max(start, end - WINDOW_S), end))
    return found


def people_distance(windows: Sequence[Span], vectors: np.ndarray) -> float | None:
    """`PEOPLE_RATIO` times the median cosine distance of neighbouring windows; None if there are none.

    Args:
        windows: in order of time.
        vectors: float32 (windows, dimensions) of length 1.
    """
    near = [i for i, (one, two) in enumerate(pairwise(windows)) if one[1] - two[0] > 0.3]
    if not near:
        return None
    distances = 1 - np.einsum("nd,nd->n", vectors[near], vectors[[i + 1 for i in near]])
    return float(PEOPLE_RATIO * np.median(distances))


def find_people(
    windows: Sequence[Span], vectors: np.ndarray, count: int | None = None, distance: float | None = None
) -> People:
    """Groups windows by voice: agglomerative clustering, cosine distance, average linkage.

    Args:
        windows: in order of time, in seconds.
        vectors: float32 (windows, dimensions) of length 1.
        count: number of people; None to find it.
        distance: the encoder's own, see `VoiceEncoder`; None for `people_distance`.

    Returns:
        The people in order of appearance; nobody if there are no windows.
    """
    if not len(windows):
        return People(np.zeros((0, 0), np.float32), None)
    measured = distance is not None
    # Evenly over the recording; the others join the nearest person.
    chosen = np.unique(np.linspace(0, len(windows) - 1, min(len(windows), _MOST_WINDOWS)).round().astype(int))
    if distance is None:
        distance = people_distance(windows, vectors)
    labels = groups_of(vectors[chosen], count, distance)
    seconds = np.array([min(HOP_S, windows[i][1] - windows[i][0]) for i in chosen])
    sizes = np.bincount(labels, seconds)
    if count is None:
        least = max(_LEAST_PERSON_S, _LEAST_PERSON_SHARE * float(sizes.sum()))
        kept = [k for k in range(len(sizes)) if sizes[k] >= least] or [int(np.argmax(sizes))]
    else:
        kept = list(range(len(sizes)))
    centres = _unit(np.stack([vectors[chosen][labels == k].mean(0) for k in kept]))
    # Once more with all windows, among them those of groups that were too small.
    nearest = np.argmax(vectors @ centres.T, axis=1)
    centres = _unit(
        np.stack([vectors[nearest == k].mean(0) if (nearest == k).any() else centres[k] for k in range(len(centres))])
    )
    return People(centres, distance if count is None else None, measured and count is None)


def groups_of(vectors: np.ndarray, count: int | None, distance: float | None) -> np.ndarray:
    """The group of each vector, int (n,): `count` groups, or those whose mean distance is below `distance`."""
    from sklearn.cluster import AgglomerativeClustering

    if len(vectors) < 2 or (count is None and distance is None):
        return np.zeros(len(vectors), int)
    limits: dict[str, Any] = {"n_clusters": None, "distance_threshold": distance}
    if count is not None:
        limits = {"n_clusters": min(count, len(vectors))}
    # A vector without a direction, of digital silence, has no cosine.
    safe = np.where(np.linalg.norm(vectors, axis=1, keepdims=True) > 0, vectors, np.full_like(vectors, 1e-3))
    return AgglomerativeClustering(metric="cosine", linkage="average", **limits).fit_predict(safe)


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def runs_of(
    spans: Sequence[Span], windows: Sequence[Span], vectors: np.ndarray, people: People, renumber: bool = True
) -> list[Run]:
    """Who speaks along the voiced spans: each person's stretches, in order of time, numbered by appearance.

    Each quarter of a second has the mean of the windows around it; a change of the speaker must pay for itself, so that
    a single window changes nothing.

    Args:
        spans: in order, in seconds; each window lies inside of one.
        windows: in order, in seconds.
        vectors: float32 (windows, dimensions) of length 1.
        people: from `find_people`.
        renumber: number them by their appearance here, instead of by their rows in `people.centres`.
    """
    runs: list[Run] = []
    likeness = vectors @ people.centres.T if len(vectors) else np.zeros((0, 0), np.float32)
    limit = _BETWEEN_SHARE * float(np.median(_shares(likeness))) if likeness.shape[1] > 1 else 0.0
    at = 0
    for start, end in spans:
        first = at
        while at < len(windows) and windows[at][0] < end:
            at += 1
        inside = range(first, at)
        if not len(inside) or not len(people.centres):
            runs.append(Run(start, end, -1, 0.0, 0.0, voiced=False))
            continue
        runs += _span_runs(start, end, [windows[i] for i in inside], likeness[first:at], limit)
    return _renumbered(_adopted(runs)) if renumber else _adopted(runs)


def _shares(likeness: np.ndarray) -> np.ndarray:
    """How near the nearest of several people is: 0.5 is the middle between two, 1 is one exactly.

    Args:
        likeness: cosines (n, people).
    """
    distances = np.sort(np.clip(1 - likeness, 0, None), axis=1)
    return distances[:, 1] / np.maximum(distances[:, 0] + distances[:, 1], 1e-6)


def _span_runs(start: float, end: float, windows: Sequence[Span], likeness: np.ndarray, limit: float) -> list[Run]:
    cells = max(1, round((end - start) / _CELL_S))
    step = (end - start) / cells
    middles = start + (np.arange(cells) + 0.5) * step
    begins, ends = (np.array([w[side] for w in windows]) for side in (0, 1))
    centre = (begins + ends) / 2
    # A window says most about its middle.
    weights = np.clip(1 - np.abs(middles[:, None] - centre) / (0.5 * (ends - begins) + 1e-6), 0, None) + 1e-6
    fits = (weights @ likeness) / weights.sum(1, keepdims=True)  # (cells, people)
    scale = max(1e-6, float(np.median(fits.max(1) - fits.min(1)))) if fits.shape[1] > 1 else 1.0
    path = _cheapest(fits / scale, _CHANGE_COST_S / step)
    mark = [0, *(i for i in range(1, cells) if path[i] != path[i - 1]), cells]
    runs = []
    for a, b in pairwise(mark):
        speaker, confidence, between = path[a], 1.0, 0.0
        if fits.shape[1] > 1:
            own = 1 - fits[a:b, speaker]
            other = 1 - np.delete(fits[a:b], speaker, axis=1).max(1)
            confidence = float(np.clip(2 * (other / np.maximum(own + other, 1e-6)).mean() - 1, 0, 1))
            # At a change the windows have both people, one after the other.
            edge = round(HOP_S / step)
            inner = fits[a + edge * (a > 0) : b - edge * (b < cells)]
            between = float(step * (_shares(inner) < limit).sum())
        runs.append(Run(start + a * step, start + b * step, speaker, confidence, between))
    return runs


def _cheapest(fits: np.ndarray, change: float) -> list[int]:
    """The path through (cells, people) with the highest sum of fits less `change` for each change (Viterbi)."""
    score, back = fits[0].copy(), []
    for row in fits[1:]:
        best = int(np.argmax(score))
        stay = score >= score[best] - change
        back.append(np.where(stay, np.arange(len(score)), best))
        score = np.where(stay, score, score[best] - change) + row
    path = [int(np.argmax(score))]
    for came in reversed(back):
        path.append(int(came[path[-1]]))
    return path[::-1]


def _adopted(runs: list[Run]) -> list[Run]:
    """Voices too short for a window become the nearest neighbour's."""
    known = [run for run in runs if run.speaker >= 0]
    found = []
    for run in runs:
        if run.speaker < 0:
            by_gap = sorted(known, key=lambda one, run=run: max(one.start - run.end, run.start - one.end))
            run = Run(run.start, run.end, by_gap[0].speaker if by_gap else 0, 0.0, 0.0, voiced=False)
        found.append(run)
    return found


def _renumbered(runs: list[Run]) -> list[Run]:
    order: dict[int, int] = {}
    for run in runs:
        order.setdefault(run.speaker, len(order))
    return [Run(run.start, run.end, order[run.speaker], run.confidence, run.between, run.voiced) for run in runs]
