"""Spans that lie beyond the end of their file, found before anything is decoded.

One span too many is a defect of an utterance, which is masked; all of them are a mistake in the times, such as
milliseconds read as seconds, and no work should be done with them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from ..toolkit.base.errors import UserError
from ..toolkit.base.threads import map_in_threads
from ..toolkit.base.words import counted
from ..toolkit.manifest import Manifest
from ..toolkit.media import media_duration

_SLACK_S = 0.05  # as extraction allows
_FAR_S, _FAR = 1.0, 0.05  # a recogniser's last turn may end a little later than the file
_MISTAKEN = 10  # times the duration: no transcript of the same recording goes on for so long
_SHOWN = 5

Span = tuple[float, float | None]


@dataclass(frozen=True)
class Fault:
    """What is wrong with the spans of one file.

    Attributes:
        beyond: number of spans that end after the file does.
        far: number of those that end far beyond.
        total: number of spans.
        last: where the last one ends, or begins if it has no end.
        duration: of the file; both in seconds.
    """

    beyond: int
    far: int
    total: int
    last: float
    duration: float

    @classmethod
    def of(cls, spans: Iterable[Span], duration: float | None) -> Fault | None:
        """The fault of spans (start, end) of a file; None if there is none, or the duration is unknown."""
        if duration is None or duration <= 0:
            return None
        ends = [start if end is None else end for start, end in spans]
        beyond = sum(end > duration + _SLACK_S for end in ends)
        if not beyond:
            return None
        far = sum(end > duration + max(_FAR_S, _FAR * duration) for end in ends)
        return cls(beyond, far, len(ends), max(ends), duration)

    @property
    def refuses(self) -> bool:
        """Whether every span ends far beyond."""
        return self.far == self.total

    @property
    def fits_ms(self) -> bool:
        """Whether the times are too large for seconds, and are in the file if they are milliseconds."""
        return self.last > _MISTAKEN * self.duration and self.last / 1000 <= self.duration + _FAR_S

    def describe(self, noun: str) -> str:
        """E.g. "2 of 3 turns end after the end (at 6000.00 of 10.00 s)"."""
        verb = "ends" if self.total == 1 else "end"
        which = f"{self.beyond} of {counted(self.total, noun)}"
        return f"{which} {verb} after the end (at {self.last:.2f} of {self.duration:.2f} s)"


def check_spans(manifest: Manifest, workers: int = 0) -> list[str]:
    """Compares the spans of a manifest with the durations that the files declare.

    Args:
        manifest: the corpus.
        workers: number of files opened at once; 0 for one per core.

    Returns:
        Notes on spans that end after their file does; extraction masks them.

    Raises:
        UserError: every span of every file ends far beyond the file's end; or all those of one file do, and would be in
            it as milliseconds.
    """
    spans: dict[str, list[Span]] = defaultdict(list)
    for u in manifest.utterances:
        sources = [(u.media, u.start, u.end), (u.audio, u.audio_start, u.audio_end)]
        for file, start, end in sources:
            if file is not None and (start is not None or end is not None):
                spans[file].append((start or 0.0, end))
    durations = map_in_threads(lambda file: media_duration(manifest.path(file)), spans, workers)
    known = {file: one for file, one in zip(spans, durations, strict=True) if one}
    faults = {file: fault for file, one in known.items() if (fault := Fault.of(spans[file], one)) is not None}
    refused = [file for file, fault in faults.items() if fault.refuses]
    mistaken = [file for file in refused if faults[file].fits_ms]
    if refused and (mistaken or len(refused) == len(spans)):
        file = (mistaken or refused)[0]
        remedy = (
            "they are milliseconds: divide them by 1000 (for a folder, --time-unit ms)"
            if mistaken
            else "correct the times, or name another file"
        )
        raise UserError(f"{manifest.path(file)}: {faults[file].describe('span')}; {remedy}")
    if not faults:
        return []
    some = ", ".join(f"{file} ({fault.beyond} of {fault.total})" for file, fault in [*faults.items()][:_SHOWN])
    count = counted(sum(fault.beyond for fault in faults.values()), "span")
    more = ", …" if len(faults) > _SHOWN else ""
    return [f"{count} after the end of the file, masked: {some}{more}"]
