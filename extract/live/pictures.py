"""The frames of a stream, looked at as they come, and what a turn's are when it has ended.

A worker of `extract` knows an utterance before it reads its frames; here they come first. So faces are detected in all
frames that an open turn may have, and tracked through a turn's own when it has ended, by the same code.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from ...toolkit.media import Image, KeptSound
from ..encoders.base import Crops
from ..faces.choice import Choosing
from ..faces.lips.closeups import FACES_PER_S, frames_of
from ..faces.lips.speech import Speech
from ..faces.thinning import Look
from ..faces.tracks import FacesLook, FaceTracks
from ..run.media.pictures import Collector, Watched, collectors_for
from ..run.media.requests import MediaRequest, Span
from ..run.media.worker import beyond_end, set_up
from .shots import NotKeptError, Shots, reach_of_tracks

# Sound and pictures that belong together are written at most so far apart. Where pictures are later, turns do not wait.
LATE_S = 3.0
_EDGE_S = 1e-3


class LivePictures:
    """The frames of a stream from the open turn on.

    Args:
        request: with the input of one visual extractor.

    Attributes:
        rates: frames per second that are wanted of the stream.
        before_s: seconds of sound before a turn that are needed with its frames.
    """

    def __init__(self, request: MediaRequest) -> None:
        self._request = request
        (self._visual,) = request.wants.values()
        self._choosing = request.choosing or Choosing()
        set_up()
        # Collectors differ in their type, each with its own looks.
        self._looker: Any = self._collector().frames
        lips = isinstance(self._visual, Crops) and self._choosing.model is not None
        self._shots = Shots(request.fps) if lips else None
        self.rates = [request.fps, FACES_PER_S] if lips else [request.fps]
        self.before_s = reach_of_tracks(request.fps)
        self._looks: deque[tuple[float, Look]] = deque()
        self._last: tuple[np.ndarray, Look] | None = None
        self._end = 0.0  # when the frame after the last one would come

    def add(self, image: Image, needed: float) -> None:
        """Takes the next frame of one of the `rates`.

        Args:
            image: the frame.
            needed: seconds before which nothing is needed any more.
        """
        time = image.k / self.rates[image.grid]
        if image.grid == 1:
            if self._shots is not None and time >= needed - _EDGE_S:
                self._shots.add(image.k, image.pixels)
            return
        self._end = (image.k + 1) / self._request.fps
        if time >= needed - _EDGE_S:
            if self._last is None or self._last[0] is not image.pixels:
                self._last = image.pixels, self._looker.look(image.pixels)
            self._looks.append((time, self._last[1]))
        if self._shots is not None:
            self._shots.settle(time, ((at, _boxes(look)) for at, look in self._looks))

    def drop(self, before: float) -> None:
        """Forgets what is before a time in seconds."""
        while self._looks and self._looks[0][0] < before - _EDGE_S:
            self._looks.popleft()
        if self._shots is not None:
            self._shots.drop(before - _EDGE_S)

    @property
    def kept_bytes(self) -> int:
        """Memory that the frames take in which lips may have to be read."""
        return 0 if self._shots is None else self._shots.bytes

    def _collector(self) -> Collector:
        (collector,) = collectors_for(self._request.wants, self._request).values()
        return collector

    def of(self, span: Span, heard: KeptSound | None, over: bool) -> Watched:
        """What was seen of a turn that has ended, as in `run.media.worker.process`.

        Args:
            span: the turn.
            heard: the sound of the stream, None if it has none.
            over: whether the stream has ended.
        """
        if reason := beyond_end(span.end, self._end + 1 / self._request.fps):
            if not over:
                reason = f"no picture in time: the video has come to {self._end:.2f} s"
            return Watched(reason=reason)
        collector = self._collector()
        frames: Any = collector.frames
        for time, look in self._looks:
            if span.covers(time):
                frames.add_look(time, look)
        speeches = self._speeches(span, frames, heard) if isinstance(frames, FaceTracks) else []
        return collector.take(span, heard, self._choosing, speeches)

    def _speeches(self, span: Span, collector: FaceTracks, heard: KeptSound | None) -> list[Speech]:
        if self._shots is None or heard is None:
            return []
        closeups = self._choosing.closeups(collector.tracks, heard, span.start, span.end)
        frames = frames_of(closeups)
        if not frames:
            return []
        for k, grey in self._shots.of(frames):
            for one in closeups:
                if one.wants(k):
                    try:
                        one.take(k, grey)
                    except NotKeptError:  # a face that moved further than one that is tracked can: not scored there
                        pass
        return self._choosing.score(closeups, heard)


def _boxes(look: Look) -> list[tuple[float, float, float, float, float]]:
    return [one.relative(look.size) for one in look.faces] if isinstance(look, FacesLook) else []
