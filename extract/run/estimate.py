"""What an extraction will take: a few dialogues are really extracted, and measured, in a temporary folder."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...toolkit.base.errors import UserError
from ...toolkit.base.processes.memory import PeakMemory
from ...toolkit.manifest import Manifest
from ...toolkit.store import FeatureStore
from ..encoders.selection import Options
from .assembly import NothingFound
from .engine import Summary, extract
from .extractors import RunExtractor
from .media.worker import DECODING, LIPS
from .rows.origins import source_of

# Enough utterances for batches of the usual size, and enough dialogues to see different files.
_LEAST_UTTERANCES, _LEAST_DIALOGUES = 32, 3
_SAMPLE_S = 0.1


@dataclass(frozen=True)
class FeatureCost:
    """What one feature will take.

    Attributes:
        name: "modality/name" of its first matrix.
        seconds: of work; the media's own work is not in it.
        weights: bytes of its model's weights.
        disk: bytes in the store.
        present, sampled: rows of the sample that have it, and all of them.
    """

    name: str
    seconds: float
    weights: int
    disk: int
    present: int
    sampled: int


@dataclass(frozen=True)
class Estimate:
    """What a run will take on this machine.

    Attributes:
        utterances, files: of the corpus.
        sampled, sampled_files: those that were measured.
        seconds: of the run by the clock.
        work: seconds of work for the media: decoding, faces, lips.
        features: of each feature.
        peak: bytes of memory that this process and its workers took together at most.
        device_peak: bytes that tensors took on a GPU; None without.
        disk: bytes of the store, and as many again for its parts while the run goes on.
    """

    utterances: int
    files: int
    sampled: int
    sampled_files: int
    seconds: float
    work: dict[str, float]
    features: list[FeatureCost]
    peak: int
    device_peak: int | None
    disk: int


def estimate(manifest: Manifest, options: Options, notify: Callable[[str], None] = lambda line: None) -> Estimate:
    """Measures a few dialogues and scales to the corpus; nothing is written but in a temporary folder.

    Work on files (decoding, the second pass over lips) is scaled by their number, everything else by the utterances.
    What an earlier run has done already is not taken into account.

    Args:
        manifest: the corpus.
        options: of the run.
        notify: called with a line per encoder.

    Raises:
        UserError: as `extract`; or the sample has no row of a feature.
    """
    part, files = sample_of(manifest)
    options = dataclasses.replace(options, save_crops=None)
    built: list[RunExtractor] = []
    with tempfile.TemporaryDirectory(prefix="erc-toolkit-") as folder, _Memory() as memory:
        out = Path(folder) / "sample.h5"
        began = time.perf_counter()
        try:
            summary = extract(part, out, options, notify=notify, built=built.extend)
        except NothingFound as error:
            raise UserError(
                f"--dry-run: of the {len(part.utterances)} utterances that were measured, {error.message}"
            ) from None
        elapsed = time.perf_counter() - began
        measured = _measured(out, summary, built, len(part.utterances), len(manifest.utterances))
    all_files = _files(manifest)
    per_file = all_files / max(1, files)
    per_row = len(manifest.utterances) / len(part.utterances)
    own = {one.name for one in measured} | {one.key for one in built}
    work = {
        name: seconds * (per_file if name in (DECODING, LIPS) else per_row)
        for name, seconds in summary.costs.work.items()
        if name not in own
    }
    load = summary.costs.stages.get("load", 0.0)
    total = sum(work.values()) + sum(one.seconds for one in measured)
    before = sum(summary.costs.work.values())
    # The stages overlap in the sample as in the run: what they take by the clock grows like the work.
    seconds = load + (elapsed - load) * (total / before if before else per_row)
    return Estimate(
        len(manifest.utterances),
        all_files,
        len(part.utterances),
        files,
        seconds,
        work,
        measured,
        memory.peak,
        memory.device_peak,
        sum(one.disk for one in measured) + sum(300 + len(u.text) for u in manifest.utterances),
    )


def sample_of(manifest: Manifest) -> tuple[Manifest, int]:
    """Whole dialogues, evenly spread, that have enough utterances; and how many media files they have."""
    dialogues = [list(rows) for _, rows in manifest.dialogues()]
    count = min(_LEAST_DIALOGUES, len(dialogues))
    while True:
        chosen = [dialogues[round(i)] for i in np.linspace(0, len(dialogues) - 1, count)]
        rows = sum(len(one) for one in chosen)
        if rows >= min(_LEAST_UTTERANCES, len(manifest.utterances)) or count == len(dialogues):
            break
        count = min(len(dialogues), count + 1)
    utterances = [u for one in chosen for u in one]
    part = dataclasses.replace(manifest, utterances=utterances)
    return part, _files(part)


def _files(manifest: Manifest) -> int:
    """How many media files a manifest has."""
    paths = {source_of(u, modality)[0] for u in manifest.utterances for modality in ("audio", "visual")}
    return len(paths - {None})


def _measured(
    out: Path, summary: Summary, built: Sequence[RunExtractor], sampled: int, utterances: int
) -> list[FeatureCost]:
    found = []
    with FeatureStore.open(out) as store:
        for one in built:
            names = [name for name in one.matrices if name in store.feature_names()]
            if not names:
                continue
            disk = 0.0
            for name in names:
                feature = store.feature(name)
                disk += 4 * feature.dim * utterances
                if feature.has_sequences:
                    frames = sum(len(feature.sequence(row)[1]) for row in range(sampled))
                    disk += frames * (4 * feature.frame_width + 8) * utterances / sampled
            present = int(store.feature(names[0]).present().sum())
            seconds = summary.costs.work.get(one.key, 0.0) * utterances / sampled
            found.append(FeatureCost(names[0], seconds, weights_of(one.extractor), round(disk), present, sampled))
    return found


def weights_of(extractor: object) -> int:
    """Bytes of the weights and buffers of an extractor's networks, as far as its attributes are networks."""
    import torch

    networks = [one for one in vars(extractor).values() if isinstance(one, torch.nn.Module)]
    tensors = {id(t): t for net in networks for t in (*net.parameters(), *net.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


class _Memory(contextlib.AbstractContextManager[Any]):
    """Watches the memory of this process and its children: the most that they took together.

    Memory that they share, such as libraries, is counted once where the system tells (PSS), else for each.
    """

    def __init__(self) -> None:
        self.peak: int = 0
        self.device_peak: int | None = None
        self._device: PeakMemory | None = None
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Memory:
        import torch

        if torch.cuda.is_available():
            self._device = PeakMemory(torch.device("cuda"))
        self._watch.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        self._watch.join()
        self.device_peak = None if self._device is None else self._device.bytes()

    def _look(self) -> None:
        import psutil

        me = psutil.Process()
        while True:
            self.peak = max(self.peak, sum(_resident(me)))
            if self._ended.wait(_SAMPLE_S):
                return


def _resident(me: Any) -> Iterator[int]:
    import psutil

    for process in [me, *me.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            try:
                yield process.memory_full_info().pss
            except (AttributeError, psutil.AccessDenied):
                yield process.memory_info().rss
