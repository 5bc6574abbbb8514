"""Turns while somebody speaks: voices of a stream, cut at pauses, recognised, and given to the people so far.

Nothing that is known later changes a turn, so that people are found in another way than in a whole recording: each
voice goes to the nearest person, or is a new one if it is far from all.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ...toolkit.media import KeptSound
from .clustering import (
    HOP_S,
    LEAST_WINDOW_S,
    PEOPLE_RATIO,
    People,
    Run,
    groups_of,
    people_distance,
    runs_of,
    windows_of,
)
from .clustering import WINDOW_S as _VOICE_S
from .pieces import Models
from .recognition import EDGE_S, Recogniser, Word, recognise
from .turns import VoiceTurn, cut_turns
from .voice_activity import PAD_S, RATE, WINDOW, WINDOW_S, quietest_window, voice_goes_on, voiced_spans
from .voice_encoders import checked_vectors

# Shorter than in a whole recording: no turn is known before its pause is over.
LIVE_PAUSE_S = 0.5
LEAST_PAUSE_S = 0.25  # a recogniser hears 0.2 s after a voice
LONGEST_VOICE_S = 28.0  # without a pause; Whisper reads 30 s at once
_BEFORE_S = 0.75  # kept before a voice, in which its first word may begin
_LEAST_PERSON_S = 1.0  # a voice that is far from everyone, and shorter, is the nearest person's
_GAP_S = 0.2  # a shorter silence is none; after a longer one somebody else may speak
_CHECKED_S = 1.0  # of voice after such a gap, by which it is compared with the voice before
_NEIGHBOURS = 1000  # distances of neighbouring windows by which the limit is found
_AHEAD = math.ceil((PAD_S + EDGE_S) / WINDOW_S)  # windows of silence after which a recogniser hears no more of a voice


class LivePeople:
    """The people of a stream so far, one vector each.

    Args:
        distance: the voice encoder's own limit, as of `VoiceEncoder`; None for `clustering.PEOPLE_RATIO` times the
            median distance of the last 1000 pairs of neighbouring windows.
        most: number of people at most; None for any number.
    """

    def __init__(self, distance: float | None, most: int | None = None) -> None:
        self._distance, self._most = distance, most
        self._near: deque[float] = deque(maxlen=_NEIGHBOURS)
        self._sums: list[np.ndarray] = []
        self._last = 0
        groups_of(np.eye(2, dtype=np.float32), None, 0.5)  # loads scikit-learn before anybody speaks

    def __len__(self) -> int:
        return len(self._sums)

    @property
    def limit(self) -> float | None:
        """The distance above which voices are different people; None while nothing says so."""
        if self._distance is None and self._near:
            return PEOPLE_RATIO * float(np.median(self._near))
        return self._distance

    def runs(
        self, spans: Sequence[tuple[float, float]], windows: Sequence[tuple[float, float]], vectors: np.ndarray
    ) -> list[Run]:
        """Who speaks along the spans of a voice, numbered from 0 in order of appearance in the stream.

        Args:
            spans, windows: in seconds, in order.
            vectors: float32 (windows, dimensions) of length 1.
        """
        if len(windows):
            self._learn(windows, vectors)
        centres = np.stack([_unit(one) for one in self._sums]) if self._sums else np.zeros((0, 0), np.float32)
        found = runs_of(spans, windows, vectors, People(centres, self._distance), renumber=False)
        if not any(run.voiced for run in found):  # too short for a voice of its own
            found = [replace(run, speaker=self._last) for run in found]
        if found:
            self._last = found[-1].speaker
        return found

    def _learn(self, windows: Sequence[tuple[float, float]], vectors: np.ndarray) -> None:
        for i, (one, two) in enumerate(pairwise(windows)):
            if one[1] - two[0] > 0.3:
                self._near.append(float(1 - vectors[i] @ vectors[i + 1]))
        limit = self.limit
        groups = groups_of(vectors, None, limit)
        for group in dict.fromkeys(groups.tolist()):  # in order of appearance
            own = np.flatnonzero(groups == group)
            total = vectors[own].sum(0, dtype=np.float64)
            seconds = sum(min(HOP_S, windows[i][1] - windows[i][0]) for i in own.tolist())
            distances = [1 - float(_unit(one) @ _unit(total)) for one in self._sums]
            nearest = int(np.argmin(distances)) if distances else -1
            if nearest < 0:
                self._sums.append(total)
            elif limit is None or distances[nearest] <= limit:
                self._sums[nearest] = self._sums[nearest] + total
            elif seconds >= _LEAST_PERSON_S and (self._most is None or len(self._sums) < self._most):
                self._sums.append(total)


@dataclass(frozen=True)
class _Heard:
    """What a recogniser is given: numbers of the first sample and of that after the last, and the spans in seconds."""

    begin: int
    end: int
    spans: tuple[tuple[float, float], ...]
    language: str | None


class _Ahead:
    """Recognises a voice in its gaps already, beside the reading: mostly the voice has ended there.

    What it finds depends on nothing but what it is given, so that the turns are those found without it.
    """

    def __init__(self, recogniser: Recogniser) -> None:
        self._recogniser, self._pool = recogniser, ThreadPoolExecutor(1, "recognises ahead")
        self._given: _Heard | None = None
        self._found: Future[tuple[list[Word], str | None]] | None = None

    def begin(self, heard: _Heard, samples: np.ndarray) -> None:
        """Begins with a voice, of which `samples` are float32 (end - begin,)."""
        if heard == self._given:
            return
        if self._found is not None:
            self._found.cancel()  # one that has begun goes on, and is waited for: only one computes at a time
        spans = [(a - heard.begin / RATE, b - heard.begin / RATE) for a, b in heard.spans]
        self._given = heard
        self._found = self._pool.submit(recognise, self._recogniser, samples, spans, heard.language)

    def end(self) -> tuple[list[Word], str | None]:
        """The words of the voice that was last begun with, with times in seconds of the stream, and their language."""
        assert self._given is not None and self._found is not None
        words, language = self._found.result()
        offset = self._given.begin / RATE
        return [replace(w, start=_later(w.start, offset), end=_later(w.end, offset)) for w in words], language


class LiveTurns:
    """Finds the turns of a stream.

    Memory is that of the open voice, `LONGEST_VOICE_S` at most, and of one vector per person.

    Args:
        models: the three models.
        sound: of the stream at 16 kHz, to which samples are added before `advance` is called.
        language: code of the language; None to detect it in the first voice.
        names: of the people, in order of appearance.
        pause: seconds of silence that end a turn.
        most: number of people at most; None for any number.
    """

    def __init__(
        self,
        models: Models,
        sound: KeptSound,
        language: str | None = None,
        names: Sequence[str] = (),
        pause: float = LIVE_PAUSE_S,
        most: int | None = None,
    ) -> None:
        self._models, self._sound, self._names, self._pause = models, sound, names, pause
        self.language = language
        self.people = LivePeople(models.voices.distance, most)
        self._state: object = None
        self._at = 0  # the window after the last that was examined
        self._first: int | None = None  # the first window of the open voice
        self._found: list[float] = []  # probabilities of its windows
        self._voice = False
        self._silent = 0  # windows since it was heard
        self._gap: tuple[int, int] | None = None  # first window of the last gap in the open voice, and after it
        self._last_start = 0.0
        self._heard = 0  # samples up to the end of the last voice: no word is recognised twice
        self._ahead = _Ahead(models.recogniser)

    @property
    def needed(self) -> int:
        """The first sample that is still needed."""
        first = self._at if self._first is None else self._first
        return max(self._heard, first * WINDOW - round(_BEFORE_S * RATE))

    def advance(self) -> list[VoiceTurn]:
        """The turns that end in the whole windows that are there by now, in order; one that is open stays open."""
        turns: list[VoiceTurn] = []
        while (self._at + 1) * WINDOW <= self._sound.end:
            turns += self._window(self._sound.cut(self._at * WINDOW, (self._at + 1) * WINDOW))
        return turns

    def end(self) -> list[VoiceTurn]:
        """The turns that are still open when the stream ends."""
        turns = self.advance()
        rest = self._sound.cut(self._at * WINDOW, self._sound.end)
        if len(rest):
            turns += self._window(rest)
        if self._first is not None:
            turns += self._close(len(self._found))
        return turns

    def _window(self, samples: np.ndarray) -> list[VoiceTurn]:
        (p,), self._state = self._models.activity.probabilities(samples, self._state)
        self._at += 1
        return self._examine(self._at - 1, float(p))

    def _examine(self, number: int, p: float) -> list[VoiceTurn]:
        self._voice = voice_goes_on(self._voice, p)
        if self._first is None:
            if not self._voice:
                return []
            self._first, self._found = number, []
        if self._voice and self._silent * WINDOW_S >= _GAP_S:
            self._gap = len(self._found) - self._silent, len(self._found)
        self._found.append(p)
        self._silent = 0 if self._voice else self._silent + 1
        if self._silent * WINDOW_S >= self._pause:
            return self._close(len(self._found))
        if self._silent == _AHEAD and (heard := self._heard_in(len(self._found), len(self._found))):
            self._ahead.begin(heard, self._sound.cut(heard.begin, heard.end))
        if (gap := self._gap) is not None and self._is_change(*gap):
            return self._cut(sum(gap) // 2, gap[1])
        if len(self._found) * WINDOW_S < LONGEST_VOICE_S:
            return []
        return self._cut(quietest_window(np.array(self._found, np.float32)))

    def _is_change(self, gap: int, after: int) -> bool:
        """Whether somebody else speaks after a gap, once enough was heard, or the next gap begins."""
        heard = len(self._found) - self._silent - after
        if heard * WINDOW_S < _CHECKED_S and self._silent * WINDOW_S < _GAP_S:
            return False
        self._gap = None
        begins = max(0, gap - round(_VOICE_S / WINDOW_S))
        if min(heard, gap - begins) * WINDOW_S < LEAST_WINDOW_S:
            return False
        one, two = self._vectors([self._seconds(begins, gap), self._seconds(after, after + heard)])
        limit = self.people.limit
        if limit is None:
            windows = windows_of([self._seconds(0, gap)])
            limit = people_distance(windows, self._vectors(windows))
        return limit is not None and 1 - float(one @ two) > limit

    def _seconds(self, first: int, end: int) -> tuple[float, float]:
        """The times of windows of the open voice."""
        assert self._first is not None
        return (self._first + first) * WINDOW_S, (self._first + end) * WINDOW_S

    def _vectors(self, windows: Sequence[tuple[float, float]]) -> np.ndarray:
        """The vectors of windows in seconds of the stream, float32 (n, dimensions) of length 1."""
        return checked_vectors(
            self._models.voices, [self._sound.cut(round(a * RATE), round(b * RATE)) for a, b in windows]
        )

    def _cut(self, cut: int, until: int | None = None) -> list[VoiceTurn]:
        """Ends the turns of the first windows of the open voice; the others are a new one.

        Args:
            cut: number of the first windows.
            until: number of windows that the recogniser hears; None for `cut`.
        """
        assert self._first is not None
        rest, first = self._found[cut:], self._first + cut
        turns = self._close(cut, until)
        for i, later in enumerate(rest):
            turns += self._examine(first + i, later)
        return turns

    def _heard_in(self, windows: int, until: int) -> _Heard | None:
        """The voice in the first windows of the open one, with its sound up to another window; None for none."""
        assert self._first is not None
        origin, last = self._first * WINDOW_S, (self._first + windows) * WINDOW_S
        spans = voiced_spans(np.array(self._found[:windows], np.float32))
        spans = tuple((origin + a, min(last, origin + b, self._sound.end / RATE)) for a, b in spans)
        if not spans:
            return None
        end = min((self._first + until) * WINDOW, round((spans[-1][1] + EDGE_S) * RATE), self._sound.end)
        return _Heard(max(self.needed, self._sound.first), end, spans, self.language)

    def _close(self, windows: int, until: int | None = None) -> list[VoiceTurn]:
        """The turns of the first windows of the open voice, which ends there."""
        heard = self._heard_in(windows, windows if until is None else until)
        self._first, self._found, self._voice, self._silent = None, [], False, 0
        self._gap = None
        if heard is None:
            return []
        self._heard = round(heard.spans[-1][1] * RATE)
        self._ahead.begin(heard, self._sound.cut(heard.begin, heard.end))
        windows_here = windows_of(heard.spans)
        vectors = self._vectors(windows_here)  # beside the recogniser
        words, self.language = self._ahead.end()
        runs = self.people.runs(heard.spans, windows_here, vectors)
        turns = []
        for turn in cut_turns(runs, words, self._names, self._pause, renumber=False):
            # In order, as in a transcript that is read again.
            start = min(max(turn.start, self._last_start), turn.end)
            self._last_start = start
            turns.append(replace(turn, start=start))
        return turns


def _later(time: float | None, by: float) -> float | None:
    return None if time is None else round(time + by, 3)


def _unit(vector: np.ndarray) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    return (vector / length if length else vector).astype(np.float32)
