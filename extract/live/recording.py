"""A stream, turn by turn: its media, its turns, and their features, extracted as for a trained run.

The turns come from a transcript that is known in advance, or are found in the stream (`diarization.live`). Extractors
are loaded once. Audio and pictures are kept from the start of the open turn on, and of earlier turns only what a text
extractor reads as context.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...toolkit.base.errors import UserError
from ...toolkit.base.words import counted
from ...toolkit.manifest import MODALITIES, Manifest, Utterance, manifest_from_rows
from ...toolkit.media import SAMPLE_RATE, KeptSound, MediaError, Piece, StreamedMedia
from ...toolkit.predict.turns import SpokenTurn, TurnFeatures
from ..encoders.audio.opensmile_sets import silence_reason
from ..encoders.base import AudioSpan, Samples, Texts
from ..recording import manifest_of_turns, options_here, recorded_options, transcript_turns
from ..run.context import turns as with_context
from ..run.extractors import RunExtractor, RunExtractors
from ..run.jobs import matrices_of
from ..run.media.requests import Span
from ..run.media.worker import beyond_end, samples_of
from ..run.rows.origins import mask_of
from .pictures import LATE_S, LivePictures

# As of a recording without one.
_NO_TRACK = {"audio": "no audio track", "visual": "no video track"}
_PART = 1 << 14  # bytes that are taken at once
_NAME = "live"
_EDGE_S, _FRAME_S = 1e-6, 0.08
Found = Iterator[tuple[SpokenTurn, TurnFeatures]]


class LiveRecording:
    """A stream of audio, or of audio and video, and the turns that have ended in it.

    Args:
        recorded: for each modality, the options that a run recorded for its features.
        labels: of the run, in index order.
        transcript: the turns of the stream, any that `recording.read_recording` reads; None to find them.
        name: of the stream, for the turns' ids.
        finding: without a transcript, options of `diarization.loading.Options` by name; `speakers` is the greatest
            number of people.
        pause: without a transcript, seconds of silence that end a turn; None for `diarization.live.LIVE_PAUSE_S`.
        speakers, time_unit, columns: for the transcript, as for `recording.read_recording`.
        pcm_rate, to_end: as for `StreamedMedia`.
        device: of the models.
        notify: called with a line for each model.

    Attributes:
        features: name of each matrix to its attributes, as a store would have them.
        absent: modality to the reason why the stream does not have it, as soon as that is known.
        names: the speaker of every turn of the transcript; empty without one.

    Raises:
        UserError: a model or a package is missing, or the transcript cannot be read. What is missing for video is
            reported when the stream has some.
    """

    def __init__(
        self,
        recorded: Mapping[str, Mapping[str, object]],
        labels: Sequence[str],
        *,
        transcript: Path | None = None,
        name: str = _NAME,
        finding: Mapping[str, Any] | None = None,
        pause: float | None = None,
        speakers: Sequence[str] = (),
        time_unit: Literal["s", "ms"] | None = None,
        columns: Sequence[str] = (),
        pcm_rate: int | None = None,
        to_end: bool = True,
        device: str = "auto",
        notify: Callable[[str], None] = print,
    ) -> None:
        self._labels, self._name, self._source = list(labels), name, Path(f"{name}.wav")
        self._sound, self._own = KeptSound(), KeptSound()
        self._waiting: deque[Utterance] = deque()  # turns that were found, whose pictures have not come yet
        self._count, self._over, self._notify = 0, False, notify
        self.names: list[str] = []
        self._given: deque[Utterance] | None = None
        if transcript is not None:
            found = transcript_turns(transcript, set(speakers) or None, time_unit, tuple(columns), None)
            manifest = manifest_of_turns(transcript, found, labels, name, self._source, None)
            for note in manifest.notes:
                notify(f"note: {note}")
            self.names, self._given = [u.speaker for u in manifest.utterances], deque(manifest.utterances)
        if several := [key.partition(" ")[0] for key in recorded if " " in key]:
            raise UserError(
                f"the model joins {several[0]} features of several extractions, but a stream is extracted once; use "
                "predict on the recording"
            )
        wanted = {m: recorded_options(m, recorded[m]) for m in MODALITIES if m in recorded}
        if any(options.describe != "none" for options in wanted.values()):
            raise UserError(
                "the model reads texts with a sentence about the voice against all turns of the speaker, which a "
                "stream does not have yet; use predict on the whole recording"
            )
        self._wanted = list(wanted)
        self.absent: dict[str, str] = {}
        self._extractors: dict[str, RunExtractors] = {}
        self._fault: UserError | None = None
        for modality, options in wanted.items():
            try:
                made = RunExtractors.make(options_here(modality, options, device, notify), alone=True)
            except UserError as error:
                if modality != "visual" or len(wanted) == 1:
                    raise
                self._fault = error
                notify("note: visual features cannot be made; a stream with video would be refused")
                continue
            for line in made.lines():
                notify(line)
            self._extractors[modality] = made
        self._pictures = None
        if "visual" in self._extractors:
            self._pictures = LivePictures(self._extractors["visual"].request([self._planned["visual"].key]))
        rates = [1.0] if self._pictures is None else self._pictures.rates
        self._media = StreamedMedia(pcm_rate, to_end, rates if "visual" in wanted else ())
        self.features = {name: attrs for one in self._planned.values() for name, attrs in _declared(one).items()}
        text = self._planned.get("text")
        wants = None if text is None else text.extractor.wants
        self._before: deque[Utterance] = deque(maxlen=wants.context if isinstance(wants, Texts) else 0)
        # Last, as it takes longest.
        self._finder = None if self._given is not None else self._make_finder(finding or {}, pause, device)

    @property
    def seconds(self) -> float:
        """Seconds of the stream so far."""
        if self._media.has_audio is False:
            return self._media.shown_until
        return self._sound.end / SAMPLE_RATE

    @property
    def most_kept_s(self) -> float:
        """Seconds of audio that were ever kept at once."""
        return self._sound.most / SAMPLE_RATE

    def add(self, data: bytes) -> Found:
        """Takes bytes of the stream; yields the turns that end in them, each as soon as it has.

        Raises:
            UserError: the stream cannot be read, or has nothing that the run uses.
        """
        for first in range(0, len(data), _PART):
            yield from self._take(self._media.add(data[first : first + _PART]))

    def end(self) -> Found:
        """Yields the turns that are open when the stream ends.

        Raises:
            UserError: there was no audio in it.
        """
        yield from self._take(self._media.end())
        self._over = True
        if not self.seconds:
            raise UserError("the stream has no audio")
        yield from self._features_of_ended()

    def close(self) -> None:
        """Ends the decoding of a stream that has not ended."""
        self._media.close()

    @property
    def _planned(self) -> dict[str, RunExtractor]:
        return {modality: made.only for modality, made in self._extractors.items()}

    def _make_finder(self, finding: Mapping[str, Any], pause: float | None, device: str) -> Any:
        from ..diarization.document import clean_name
        from ..diarization.live import LIVE_PAUSE_S, LiveTurns
        from ..diarization.loading import Loader, Options

        options = Options(**{**finding, "device": device})
        names = tuple(clean_name(name, "--names") for name in options.names)
        if len(set(names)) < len(names):
            raise UserError("--names: a name is there twice; leave it out, or tell the two people apart")
        models = Loader(options, live=True).models()
        pause = LIVE_PAUSE_S if pause is None else pause
        return LiveTurns(models, self._sound, options.language, names, pause, options.speakers)

    @property
    def _wants_own(self) -> bool:
        audio = self._planned.get("audio")
        wants = None if audio is None else audio.extractor.wants
        return isinstance(wants, Samples) and wants.rate != SAMPLE_RATE and self._rate != SAMPLE_RATE

    @property
    def _rate(self) -> int:
        return self._media.rate

    def _take(self, pieces: Iterator[Piece]) -> Found:
        try:
            for piece in pieces:
                self._know_tracks()
                self._sound.add(piece.sound)
                if self._wants_own:
                    self._own.add(piece.own)
                there_are_more = bool(self._finder or self._given or self._waiting)
                if piece.image is not None and self._pictures is not None and there_are_more:
                    self._pictures.add(piece.image, self._needed_s())
                yield from self._features_of_ended()
        except MediaError as error:
            raise UserError(f"the stream: {error}") from None

    def _features_of_ended(self) -> Found:
        for utterance in self._ended():
            yield self._spoken(utterance), self._extracted(utterance)
        needed = self._needed_s()
        before = needed
        if self._pictures is not None and self._media.has_video is not False:
            self._pictures.drop(needed)
            before -= self._pictures.before_s
        self._sound.drop(min(self._sound.end, round(before * SAMPLE_RATE)))
        self._own.drop(min(self._own.end, round(needed * self._rate) - 1))

    def _know_tracks(self) -> None:
        """Notes which modalities the stream does not have, once this is known."""
        for modality, there in (("audio", self._media.has_audio), ("visual", self._media.has_video)):
            if there and modality == "visual" and self._fault is not None:
                raise self._fault
            if there is not False or modality in self.absent or modality not in self._wanted:
                continue
            self.absent[modality] = _NO_TRACK[modality]
            self._notify(f"{modality}: absent in the stream ({_NO_TRACK[modality]})")
            if set(self.absent) == set(self._wanted):
                raise UserError(f"the stream has none of {', '.join(self._wanted)}, which the model needs")
        if self._finder is not None and self._media.has_audio is False:
            raise UserError("the stream has no audio, in which turns could be found; give them with --transcript")

    def _needed_s(self) -> float:
        """Seconds of the stream before which nothing is needed any more."""
        starts = [self._waiting[0].start or 0.0] if self._waiting else []
        if self._finder is not None:
            starts.append(self._finder.needed / SAMPLE_RATE - 0.01)  # a turn's times are rounded
        elif self._given:
            starts.append(self._given[0].start or 0.0)
        return max(0.0, min(starts, default=self.seconds))

    def _ended(self) -> Iterator[Utterance]:
        """The turns that have ended, in the order of their starts: a later one waits for those that began before."""
        if self._finder is not None:
            for turn in self._finder.end() if self._over else self._finder.advance():
                self._count += 1
                row: dict[str, object] = {"start": turn.start, "end": turn.end, "text": turn.text}
                self._waiting.append(self._utterance({**row, "speaker": turn.speaker}, self._count))
            while self._waiting and (self._over or self._reached(self._waiting[0].end)):
                yield self._waiting.popleft()
            return
        assert self._given is not None
        while self._given and (self._over or self._reached(self._given[0].end)):
            if self._over and (self._given[0].start or 0.0) >= self.seconds:
                rest = counted(len(self._given), "turn")
                self._notify(f"note: the stream ended before {rest} of the transcript began; left out")
                self._given.clear()
                return
            yield self._given.popleft()

    def _reached(self, end: float | None) -> bool:
        """Whether everything that a turn with this end needs has come."""
        if end is None:
            return False
        if self._pictures is not None and self._media.has_video:
            if self._media.has_audio is False:
                return self._media.decided > end + _EDGE_S
            heard = self._sound.end / SAMPLE_RATE
            if heard < end + _FRAME_S:  # the lips are heard to the end of their last frame
                return False
            if self._media.decided <= end + _EDGE_S and heard < end + LATE_S:
                return False
        if self._wants_own and round(end * self._rate) > self._own.end:
            return False
        return round(end * SAMPLE_RATE) <= self._sound.end

    def _utterance(self, turn: Mapping[str, object], number: int) -> Utterance:
        row = {"id": f"{self._name}_{number - 1}", "dialogue": self._name, "split": "test", "media": self._source.name}
        made = manifest_from_rows(
            self._source, [(number, {**row, **turn})], self._name, self._labels, Path(), unit="turn"
        )
        return made.utterances[0]

    def _spoken(self, u: Utterance) -> SpokenTurn:
        return SpokenTurn(u.id, u.speaker, u.text, u.start or 0.0, self.seconds if u.end is None else u.end)

    def _extracted(self, utterance: Utterance) -> TurnFeatures:
        found: dict[str, tuple[np.ndarray | None, str]] = {m: (None, reason) for m, reason in self.absent.items()}
        for modality, made in self._extractors.items():
            planned = made.only
            values, reason = None, self.absent.get(modality, "")
            if not reason:
                extracted = {"text": self._text, "audio": self._heard, "visual": self._seen}[modality]
                with made.arithmetic():
                    values, reason = extracted(planned, utterance)
            width = planned.extractor.dim
            for i, name in enumerate(_names(planned)):
                found[name] = (None if values is None else values[i * width : (i + 1) * width], reason)
        self._before.append(utterance)
        return found

    def _text(self, planned: RunExtractor, utterance: Utterance) -> tuple[np.ndarray | None, str]:
        dialogue = Manifest(self._name, self._labels, Path(), [*self._before, utterance], [])
        given = with_context(dialogue, [len(self._before)], self._before.maxlen or 0)
        (result,) = planned.results(given)
        reason = utterance.mask.get("text") or result.reason
        return None if reason else result.values, reason

    def _heard(self, planned: RunExtractor, utterance: Utterance) -> tuple[np.ndarray | None, str]:
        wants = planned.extractor.wants
        assert isinstance(wants, Samples)
        if reason := mask_of(utterance, "audio") or beyond_end(utterance.end, self.seconds):
            return None, reason
        samples = self._sound.cut(*samples_of(utterance.start, utterance.end, self._sound.end, SAMPLE_RATE))
        if reason := silence_reason(samples):
            return None, reason
        span = AudioSpan(samples, SAMPLE_RATE)
        if self._wants_own:
            place = samples_of(utterance.start, utterance.end, self._own.end, self._rate)
            span = AudioSpan(self._own.cut(*place), self._rate)
        if wants.in_workers is not None:
            result = planned.checked(wants.in_workers(span))
        else:
            (result,) = planned.results([span])
        return result.values, result.reason

    def _seen(self, planned: RunExtractor, utterance: Utterance) -> tuple[np.ndarray | None, str]:
        if reason := mask_of(utterance, "visual"):
            return None, reason
        assert self._pictures is not None
        span = Span(0, utterance.start, utterance.end, None, [planned.key])
        one = self._pictures.of(span, self._sound if self._media.has_audio else None, self._over)
        if one.reason:
            return None, one.reason
        (result,) = planned.results(list(one.series.values()))
        return result.values, result.reason


def _names(planned: RunExtractor) -> list[str]:
    return [f"{planned.modality}/{matrix}" for matrix in matrices_of(planned.extractor)]


def _declared(planned: RunExtractor) -> dict[str, dict[str, object]]:
    matrices = matrices_of(planned.extractor)
    return {
        f"{planned.modality}/{matrix}": {**planned.provenance, **attributes, "options": planned.options}
        for matrix, attributes in matrices.items()
    }
