"""What computes parts on a node: the extractors, loaded once, and the stages of a run on one machine."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ....toolkit.base.cluster.nodes import Seat
from ....toolkit.base.errors import UserError
from ....toolkit.base.processes import keep_workers, preload
from ....toolkit.base.progress import Bar, Stages
from ....toolkit.base.threads import map_in_threads
from ....toolkit.manifest import Manifest
from ....toolkit.store import FeaturePart
from ...encoders.base import Extracted
from ...encoders.selection import OPENSMILE, Options
from ..budget import budget, cores_of
from ..costs import Costs
from ..extractors import RunExtractor, RunExtractors
from ..jobs import Corpus, Job, plan_of
from ..media_stage import run_media
from ..rows.kept import KeptRows
from ..rows.origins import UNKNOWN, FileFacts, identify
from ..rows.parts import FeaturePlan, PartsFolder, Rows, difference, empty_rows
from ..text_stage import read_texts
from .parts import PartResult, PartTask, packed, plain_plan

AT_ONCE = 2  # parts that are computed side by side
ROOT = "ERC_TOOLKIT_CORPUS"  # environment variable of a node that has the corpus in another place
# An encoder computes one part at a time, while the processes for media go on with the next.
_ENCODING = threading.Lock()


@dataclass(frozen=True)
class WorkerFactory:
    """Makes a node's worker; pickled.

    Attributes:
        options: of the run, with the device of the nodes.
        alone: as for `RunExtractors.make`.
        plans: what the features depend on, by their keys, with which the node's have to agree.
        root: of the corpus.
        files: paths relative to the root that will be read.
    """

    options: Options
    alone: bool
    plans: dict[str, FeaturePlan]
    root: Path
    files: Sequence[str]

    def __call__(self, seat: Seat) -> PartWorker:
        return PartWorker(self, seat)


class PartWorker:
    """A worker on a node.

    Raises:
        UserError: an extractor cannot be loaded, or its features would not be those of the run.
    """

    def __init__(self, given: WorkerFactory, seat: Seat) -> None:
        # Two parts at once, each in processes of its own, fill these cores, also at the end of a part.
        self._options = dataclasses.replace(given.options, workers=-(-seat.cpus // AT_ONCE))
        keep_workers()
        self._given = given
        self._root = Path(os.environ.get(ROOT) or given.root)
        extractors = RunExtractors.make(self._options, given.alone)
        for one in extractors.all():
            mine, wanted = plain_plan(plan_of(one)), given.plans[one.key]
            if mine != wanted:
                raise UserError(f"would extract {one.key} with {difference(wanted, mine, word='but here')}")
        self._extractors = extractors
        self._planned = {one.key: _OneAtATime.of(one) for one in extractors.all()}
        if any(one.modality != "text" for one in extractors.all()):
            smile = ["opensmile"] if any(one.registered.name == OPENSMILE for one in extractors.all()) else []
            preload("erc_toolkit.extract.run.media.worker", *smile)
        self._cores = cores_of(extractors, seat.cpus)
        ExitStack().enter_context(extractors.arithmetic())  # for as long as this process lives

    def about(self) -> list[int]:
        """The sizes of the corpus's files here, in bytes, -1 for each that is missing."""
        paths = (self._root / name for name in self._given.files)
        return [size for _, size in map_in_threads(identify, paths)]

    def work(self, task: PartTask) -> bytes:
        """Computes a part."""
        manifest = dataclasses.replace(task.manifest, root=self._root)
        corpus = Corpus.of(manifest, check_content=False)
        jobs = [PartJob.of(self._planned[key], manifest, task, key) for key in task.todo]
        media, texts = ([job for job in jobs if (job.modality == "text") == text] for text in (False, True))
        costs, progress, faults, crops = Costs(), _Silent(), [], {}
        with tempfile.TemporaryDirectory(prefix="erc-toolkit-") as folder:
            options = self._options
            if options.save_crops is not None:
                options = dataclasses.replace(options, save_crops=Path(folder))
            never = threading.Event()
            with budget(self._cores) as own:
                if texts:
                    read_texts(texts, manifest, never, progress, costs, own.texts)
                if media:
                    faults = run_media(
                        list(media), corpus, self._extractors, options, never, progress, costs, False, own.media
                    )
            crops = {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}
        files = {file for job in jobs for file in job.read}
        ordered = sorted(files, key=lambda file: (file.content, file.identity))
        rows = {job.key: job.rows for job in jobs}
        return packed(PartResult(rows, ordered, faults, costs.work, crops), task.todo)


@dataclass
class PartJob(Job):
    """The job of one part, as the stages take it. It keeps what another would write."""

    own: Sequence[int] = ()
    rows: Rows = cast(Rows, None)
    read: Sequence[FileFacts] = ()

    @classmethod
    def of(cls, planned: RunExtractor, manifest: Manifest, task: PartTask, key: str) -> PartJob:
        """The job of a feature of a task."""
        keys = [UNKNOWN] * len(manifest.utterances)  # the driver knows those of texts
        folder = cast(PartsFolder, None)
        return cls(
            planned, folder, [task.part], [""], keys, KeptRows(), [0], sentences=task.sentences, own=task.todo[key]
        )

    def rows_todo(self, index: int) -> list[int]:
        """As of a job."""
        return list(self.own)

    def begin(self, index: int) -> Rows:
        """As of a job, but without rows that are kept: the driver has them."""
        return empty_rows(self.parts[index], self.own, self.planned.extractor)

    def write(self, index: int, rows: Rows, files: Sequence[FileFacts] = ()) -> None:
        """Keeps the rows, and the files that were read for them."""
        self.rows, self.read = rows, files

    def finished_parts(self) -> Iterator[FeaturePart]:
        """Not on a node."""
        raise NotImplementedError


class _OneAtATime(RunExtractor):
    """An extractor that computes for one part at a time."""

    @classmethod
    def of(cls, one: RunExtractor) -> RunExtractor:
        return cls(**{field.name: getattr(one, field.name) for field in dataclasses.fields(one)})

    def results(
        self, utterances: Sequence[Any], done: Callable[[int], None] = lambda count: None
    ) -> Iterator[Extracted]:
        """As of a `RunExtractor`."""
        with _ENCODING:
            found: Iterable[Extracted] = list(super().results(utterances, done))
        yield from found


class _Silent(Stages):
    """Progress that nobody sees: the driver reports it."""

    def stage(self, name: str, total: float | None) -> Bar:
        return Bar(name, total)
