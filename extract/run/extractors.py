"""The extractors of a run: chosen from the registry by the options, built, and recorded in the store."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...toolkit.base.device import check_precision, products_in
from ...toolkit.base.errors import UserError
from ...toolkit.base.shared_cores import share
from ...toolkit.base.words import counted
from ...toolkit.media import SAMPLE_RATE
from ..encoders.base import AudioSpan, Crops, Extracted, Extractor, Frames, Provenance, Samples, Setup
from ..encoders.kinds import FeatureRequest, requests_of
from ..encoders.option import OptionSpec, option_specs
from ..encoders.registry import Registered, check_owners, find_extractor, own_options
from ..encoders.selection import (
    DENSENETS,
    FACE_NETWORK,
    IMAGE_MODEL,
    OPENVINO,
    TORCH,
    VIDEO_MODEL,
    WITHOUT_NETWORK,
    Options,
    built_in_extractor,
)
from ..faces.detection import face_model, make_detector
from .media.requests import MediaRequest
from .media.speaker import ChoiceOfSpeaker, choice_of_speaker
from .provenance import detection_in_words, options_record, provenance
from .rows.parts import matrices_of

if TYPE_CHECKING:
    import torch

    from ..encoders.runtimes.choice import Runtime

_ON_FACES = (FACE_NETWORK, IMAGE_MODEL, VIDEO_MODEL)
_COST = {"audio": 0, "visual": 1, "text": 2}  # the order in which extractors are loaded


@dataclass(frozen=True)
class RunExtractor:
    """One extractor of a run.

    Attributes:
        registered: its class and the package it comes from.
        extractor: the extractor itself.
        provenance: how the features are computed, including how crops or frames are taken.
        options: the options that the features depend on, as the store records them for `predict`.
        request: how it was asked for.
        alone: whether each utterance is extracted by itself, so that the others do not affect the last bits of its
            features, as they do in a batch.
        on_cpu: whether its network, if it has one, is on the CPU.
    """

    registered: Registered
    extractor: Extractor
    provenance: Provenance
    options: dict[str, object]
    request: FeatureRequest
    alone: bool = False
    on_cpu: bool = True

    @property
    def modality(self) -> str:
        return self.registered.cls.modality

    @property
    def key(self) -> str:
        """Its name in the run: "modality/name"."""
        return f"{self.modality}/{self.extractor.name}"

    @property
    def matrices(self) -> list[str]:
        """The names of its matrices in the store."""
        return [f"{self.modality}/{matrix}" for matrix in matrices_of(self.extractor)]

    @property
    def has_network(self) -> bool:
        """Whether it computes with a network of PyTorch, as far as is known."""
        return self.registered.name not in WITHOUT_NETWORK

    def results(
        self, utterances: Sequence[Any], done: Callable[[int], None] = lambda count: None
    ) -> Iterator[Extracted]:
        """The extractor's results for the utterances, one by one, checked.

        Raises:
            UserError: results that violate the contract.
        """
        wants = self.extractor.wants
        if isinstance(wants, Samples) and wants.rate is not None:
            utterances = [_at_rate(span, wants.rate) for span in utterances]
        count = 0
        for group in [[one] for one in utterances] if self.alone else [utterances]:
            for result in self._extracted(group, done):
                count += 1
                if count <= len(utterances):
                    yield self.checked(result)
        if count != len(utterances):
            raise self._broken(f"returned {counted(count, 'result')} for {counted(len(utterances), 'utterance')}")

    def _extracted(self, group: Sequence[Any], done: Callable[[int], None]) -> Iterable[Extracted]:
        own = share()
        if own is None or self.registered.built_in or not self.on_cpu:
            return self.extractor.extract(group, done)
        with own.all_threads():  # its batches, if it has any, ask for no cores
            return list(self.extractor.extract(group, done))

    def checked(self, result: Extracted) -> Extracted:
        """The result, if it fulfils the contract.

        Raises:
            UserError: it does not; names the member.
        """
        extractor = self.extractor
        if not isinstance(result, Extracted):
            raise self._broken(f"returned {type(result).__name__}, not Extracted")
        if unknown := set(result.details) - set(extractor.details):
            raise self._broken(f"returned the detail {sorted(unknown)[0]!r}, which its details do not declare")
        if not isinstance(result.reason, str) or (result.values is None) != bool(result.reason):
            raise self._broken("must return either values or a reason why there are none")
        if result.values is None:
            return result
        width = extractor.dim * len(extractor.matrices)
        if np.shape(result.values) != (width,):
            raise self._broken(f"returned values of shape {np.shape(result.values)}, not ({width},)")
        if not extractor.frame_width:
            return result
        if result.frames is None or result.times is None:
            raise self._broken("returned no frames or no times, although sequences were requested")
        if np.shape(result.frames) != (len(result.times), extractor.frame_width):
            raise self._broken(
                f"returned frames of shape {np.shape(result.frames)} and {counted(len(result.times), 'time')}, not (T, "
                f"{extractor.frame_width}) and T"
            )
        return result

    def _broken(self, what: str) -> UserError:
        return UserError(f"{self.registered}: extract() {what}")


@dataclass(frozen=True)
class RunExtractors:
    """The extractors of a run; if face crops are needed, the face detector's (file, SHA-256) and how the speaker is
    chosen."""

    extractors: Sequence[RunExtractor]
    detector: tuple[Path, str] | None
    options: Options
    speaker: ChoiceOfSpeaker | None = None

    @classmethod
    def make(cls, options: Options, alone: bool = False) -> RunExtractors:
        """Loads the extractors, the cheapest first, so that a missing model is reported before anything else is done.

        Args:
            options: which, and how.
            alone: as for `RunExtractor`.

        Raises:
            UserError: a model that cannot be loaded, an extractor that is not installed or violates the contract, a
                precision that the device does not have, incompatible options, or two features of one name.
        """
        chosen = choose(options)
        # The options of all extractors, and whether they support sequences, are checked before any model is loaded.
        given: list[Any] = []
        devices = [_device(registered, options) for _, registered in chosen]
        for (request, registered), device in zip(chosen, devices, strict=True):
            own = own_options(registered.name, request.options.extractor_options)
            given.append(request.options if registered.built_in else registered.options(own))
            if options.sequences:
                registered.check_sequences()
            if registered.name not in WITHOUT_NETWORK:
                check_precision(request.options.precision, device, "--precision")
        if options.runtime == OPENVINO and all(registered.name != FACE_NETWORK for _, registered in chosen):
            raise UserError(f"--runtime {OPENVINO}: computes the DenseNets only ({', '.join(DENSENETS)}); leave it out")
        detector = speaker = None
        if any(registered.name in _ON_FACES and request.options.crop == "face" for request, registered in chosen):
            detector = _load_detector(options)
        built: dict[int, Extractor] = {}
        for i in sorted(range(len(chosen)), key=lambda i: (_COST[chosen[i][0].modality], i)):
            request, registered = chosen[i]
            setup = Setup(devices[i], request.options.precision, options.sequences)
            built[i] = registered.build(given[i], setup)
        crops = [one for one in built.values() if isinstance(one.wants, Crops)]
        if crops:
            detector = detector or _load_detector(options)
            speaker = choice_of_speaker(options)
            options = replace(options, speaker_choice=speaker.by)
        visual = [registered for request, registered in chosen if request.modality == "visual"]
        if options.save_crops is not None and visual and not crops:
            raise UserError(f"--save-crops: {visual[0]} does not use face crops; leave the option out")
        found = []
        for i, (request, registered) in enumerate(chosen):
            runtime = _runtime(built[i])
            used = TORCH if runtime is None else runtime.name
            own = replace(request.options, speaker_choice=options.speaker_choice, runtime=used)
            origin = provenance(registered, built[i], given[i], own, detector, speaker)
            recorded = options_record(registered, built[i], given[i], own)
            if own.name is not None:  # the name in the store, not that of the model in its provenance
                _rename(registered, built[i], own.name, request)
            on_cpu = devices[i].type == "cpu"
            found.append(RunExtractor(registered, built[i], origin, recorded, request, alone, on_cpu))
        _check_names(found)
        return cls(found, detector, options, speaker)

    def all(self) -> Iterator[RunExtractor]:
        """All extractors of the run."""
        yield from self.extractors

    @property
    def only(self) -> RunExtractor:
        """The extractor of a run that has one."""
        (one,) = self.extractors
        return one

    def lines(self) -> Iterator[str]:
        """A line about each extractor, for the user."""
        for one in self.all():
            origin = one.provenance
            parts = [str(origin["weights"])] if "weights" in origin else []
            if "weights_sha256" in origin:
                where = f", on {origin['device']}" if "device" in origin else ""
                parts.append(f"weights sha256 {str(origin['weights_sha256'])[:12]}…{where}")
            if (runtime := _runtime(one.extractor)) is not None and runtime.note:
                parts.append(f"computed by {runtime.note}")
            weights = f" ({'; '.join(parts)})" if parts else ""
            yield f"{one.modality}: {origin['model']}, {counted(one.extractor.dim, 'dimension')}{weights}"
        if self.detector is not None:
            yield f"faces: {detection_in_words(self.options, self.detector)}"
        if self.speaker is not None:
            yield f"speaker among several faces: {self.speaker.line}"

    def arithmetic(self) -> AbstractContextManager[None]:
        """The context of the run's networks: PyTorch has one setting for all threads, so one is made for the run."""
        networks = [one.registered for one in self.all() if one.has_network]
        return products_in(self.options.precision, _device(networks[0], self.options)) if networks else nullcontext()

    def request(self, keys: Collection[str]) -> MediaRequest:
        """The request to the workers for the features with these keys, none of text."""
        options, wants = self.options, {}
        for one in self.all():
            if one.key in keys:
                assert isinstance(one.extractor.wants, Samples | Crops | Frames)
                wants[one.key] = one.extractor.wants
        return MediaRequest(
            wants=wants,
            detector=options.face_detector,
            detector_model=self.detector[0] if self.detector is not None else None,
            fps=options.fps,
            margin=options.face_margin,
            most_frames=options.most_frames,
            time_limit=options.time_limit,
            audio_track=options.audio_track,
            smallest_face=options.smallest_face,
            choosing=self.speaker.choosing if self.speaker is not None else None,
        )


def _runtime(extractor: Extractor) -> Runtime | None:
    """What computes a face network; other extractors have no choice."""
    if (found := getattr(extractor, "runtime", None)) is None:
        return None
    from ..encoders.runtimes.choice import Runtime  # imports torch, which other extractors may not need

    return found if isinstance(found, Runtime) else None


def _rename(registered: Registered, extractor: Extractor, name: str, request: FeatureRequest) -> None:
    """Gives an extractor another name.

    Raises:
        UserError: its matrices would not have it.
    """
    before = list(matrices_of(extractor))
    try:
        different = extractor.name != name
        extractor.name = name
    except AttributeError:  # of another package, as a property
        different = True
    if different and list(matrices_of(extractor)) == before:
        raise UserError(f"--feature {request.line}: {registered} names its matrices itself; leave name out")


def _check_names(extractors: Sequence[RunExtractor]) -> None:
    """Raises a UserError if two features would have one name in the store, or in the run."""
    known: set[str] = set()
    for one in extractors:
        # Its own name too, which its parts have until the store is written, though its matrices may have others.
        names = {
            f"{one.modality}/{name.replace('/', '--')}" for name in (*matrices_of(one.extractor), one.extractor.name)
        }
        if twice := sorted(names & known):
            raise UserError(
                f"--feature {one.request.line}: {twice[0]} is asked for twice; give one of them a name, with @name=NAME"
            )
        known |= names


def choose(options: Options) -> list[tuple[FeatureRequest, Registered]]:
    """The features that the options ask for, each with its extractor.

    Raises:
        UserError: a feature that cannot be understood; an --extractor that is not installed, is built in, is for a
            modality that is not requested, or is for the same modality as another.
    """
    check_owners(options)
    others: dict[str, Registered] = {}
    for name in dict.fromkeys(options.extractors):
        registered = find_extractor(name)
        if registered.built_in:
            flags = ", ".join(spec.flag for spec in option_specs(Options).values() if name in spec.of)
            raise UserError(f"--extractor {name}: is built in; choose it with {flags or '--feature'}")
        modality = registered.cls.modality
        if modality not in options.modalities:
            raise UserError(f"--extractor {name}: extracts {modality}, which is not among --modalities")
        if modality in others:
            raise UserError(
                f"--extractor {name}: {others[modality]} extracts {modality} already; use them in separate runs"
            )
        others[modality] = registered
    found = []
    for request in requests_of(options):
        names = request.options.extractors or (built_in_extractor(request.options, request.modality),)
        found.append((request, find_extractor(names[0])))
    return found


def replaced_options(options: Options, given: set[str]) -> list[tuple[OptionSpec, str]]:
    """The given options that only a replaced built-in extractor reads, each with the name of the replacement."""
    specs = option_specs(Options)
    others = [find_extractor(name) for name in options.extractors]
    return [
        (specs[name], other.name)
        for other in others
        for name in given
        if specs[name].of and other.cls.modality in specs[name].makes
    ]


def _device(registered: Registered, options: Options) -> torch.device:
    from ...toolkit.base.device import pick_device

    # openSMILE runs on the CPU only, and works even if the named device does not exist.
    return pick_device("cpu" if registered.name in WITHOUT_NETWORK else options.device)


def _load_detector(options: Options) -> tuple[Path, str]:
    detector = face_model(options.face_detector, options.face_model)
    make_detector(options.face_detector, detector[0])
    return detector


def _at_rate(span: AudioSpan, rate: int) -> AudioSpan:
    if span.rate == rate or rate == SAMPLE_RATE:
        return span
    from ..encoders.audio.resampling import resample

    return resample(span, rate)
