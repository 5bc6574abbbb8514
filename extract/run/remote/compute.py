"""The driver of parts on a cluster: hands out what is to do, and writes what comes back as on one machine."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ....toolkit.base.cluster import Cluster, Lost, Node, Place, Team
from ....toolkit.base.errors import FaultError
from ....toolkit.base.files import write_atomically
from ....toolkit.base.progress import Bar, Stages
from ....toolkit.base.words import counted
from ...encoders.selection import Options
from ..costs import Costs
from ..extractors import RunExtractor, RunExtractors
from ..jobs import Corpus, Job, context_of, plan_of
from ..rows.origins import source_of
from .parts import Arrived, Came, PartTask, plain_plan, unpacked_part
from .worker import AT_ONCE, WorkerFactory

AHEAD = AT_ONCE + 1  # parts that a worker has: those that it computes, and one that waits
_PROCESS_BYTES = 256 << 20  # of memory for each process that decodes, as it is declared to Ray
_MEDIA = "media"


class RemoteParts:
    """Computes parts on a cluster. Use it in a `with` statement.

    Args:
        cluster: the cluster.
        options: of the run.
        alone: as for `RunExtractors.make`.
        notify: called with a line on each node that is not used, or is lost.

    Attributes:
        device: of the nodes.
        received: bytes that have come back.
    """

    def __init__(self, cluster: Cluster, options: Options, alone: bool, notify: Callable[[str], None]) -> None:
        self._cluster, self._options, self._alone, self._notify = cluster, options, alone, notify
        self.device = _device_of_nodes(options.device, cluster.nodes())
        self._team: Team | None = None
        self._sizes: list[int] | None = None
        self._root, self._files = Path(), list[str]()
        self._named: set[str] = set()
        self._needed = 0

    def __enter__(self) -> RemoteParts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._team is not None:
            self._team.__exit__(kind, error, traceback)

    @property
    def received(self) -> int:
        return 0 if self._team is None else self._team.received

    def loaded(self) -> RunExtractors:
        """The extractors, loaded here too: for their names, and to report what is missing before a node is asked.

        Raises:
            UserError: as `RunExtractors.make`.
        """
        here = self._options
        if self.device.startswith("cuda"):
            import torch

            here = dataclasses.replace(here, device="cuda" if torch.cuda.is_available() else "cpu")
        else:
            here = dataclasses.replace(here, device=self.device)
        made = RunExtractors.make(here, self._alone)
        return dataclasses.replace(made, extractors=[_on(one, self.device) for one in made.all()])

    def compute(
        self,
        jobs: Sequence[Job],
        extractors: RunExtractors,
        corpus: Corpus,
        stop: threading.Event,
        progress: Stages,
        costs: Costs,
        strict: bool,
    ) -> list[str]:
        """Computes what is to do of these jobs and writes it, until all parts are done or `stop` is set.

        Returns:
            Utterances that failed for no known reason, and what happened, as `run_media` does.

        Raises:
            UserError: no node can be used, or what an extractor raises.
            FaultError: no node is left, or parts whose node or process was lost several times; all else is kept.
        """
        began, faults, lost = time.perf_counter(), list[str](), list[str]()
        bars = _bars(jobs, progress)
        team = self._begun(jobs, extractors, corpus)
        given: dict[Any, tuple[list[Job], PartTask, int]] = {}

        def tasks() -> Iterator[tuple[Any, PartTask]]:
            for key, own, index in _planned(jobs):
                task, offset = _task(own, index, corpus)
                given[key] = own, task, offset
                yield key, task

        for key, found in team.run(tasks(), stop.is_set):
            own, task, offset = given.pop(key)
            kind, index = key
            if isinstance(found, Lost):
                part, utterances = own[0].parts[index], corpus.manifest.utterances
                lost.append(f"{utterances[part[0]].id} to {utterances[part[-1]].id}: {found.reason}")
                continue
            arrived = unpacked_part(found)
            faults += arrived.faults
            for name, seconds in arrived.seconds.items():
                costs.add(name, seconds)
            if not (strict and arrived.faults):
                self._write(own, index, task, offset, arrived, corpus)
            bars[kind].advance(len(own[0].parts[index]))
            costs.stages[_MEDIA if kind == _MEDIA else "text"] = time.perf_counter() - began
        if lost:
            shown = f"{'; '.join(lost[:3])}{'; …' if len(lost) > 3 else ''}"
            raise FaultError(
                f"--engine {self._cluster.engine.text}: {counted(len(lost), 'part')} could not be computed: {shown}. "
                "Everything else is kept; run the same command again to retry"
            )
        return faults

    def _write(
        self, own: Sequence[Job], index: int, task: PartTask, offset: int, arrived: Arrived, corpus: Corpus
    ) -> None:
        """Writes a part that came back."""
        # A file's identity is that on its node. Of a file that is another one here, the content is known all the same.
        here = {corpus.files.identity(corpus.path(path)) for path in _paths(own, index, corpus)}
        files = [file if file.identity in here else dataclasses.replace(file, identity="") for file in arrived.files]
        corpus.files.learn(files)
        for name, content in arrived.crops.items():
            if self._options.save_crops is not None and Path(name).name == name and name.endswith(".png"):
                write_atomically(self._options.save_crops / name, content)
        for job in own:
            rows = job.begin(index)
            came = arrived.rows.get(job.key)
            todo = [row + offset for row in task.todo[job.key]]
            if came is None or came.values.shape != (len(todo), rows.values.shape[1]):
                raise FaultError(f"a node returned other rows of {job.key} than it was asked for")
            for number, row in enumerate(todo):
                _put(rows, row, came, number)
                rows.note_origin(row, job.keys[row] if job.modality == "text" else came.made_from[number])
            job.write(index, rows, files)

    def _begun(self, jobs: Sequence[Job], extractors: RunExtractors, corpus: Corpus) -> Team:
        """The workers on the nodes, started at the first call."""
        if self._team is not None:
            return self._team
        import psutil
        import torch

        self._root = corpus.manifest.root.absolute()
        self._files = sorted(
            {
                path
                for job in jobs
                if job.modality != "text"
                for index in job.todo
                for path in _paths([job], index, corpus)
            }
        )
        here = [corpus.files.size(corpus.path(path)) for path in self._files]
        self._sizes = here if not here or max(here) >= 0 else None
        self._needed = psutil.Process().memory_info().rss
        options = dataclasses.replace(self._options, device=self.device, log_json=False)
        plans = {one.key: plain_plan(plan_of(one)) for one in extractors.all()}
        self._team = Team(
            self._cluster,
            WorkerFactory(options, self._alone, plans, self._root, self._files),
            self._places,
            threads=torch.get_num_threads(),
            notify=self._notify,
            ahead=AHEAD,
            concurrency=AT_ONCE,
            admit=self._admit,
            together=self._sizes is None,
        )
        return self._team

    def _places(self, node: Node) -> list[Place]:
        """One worker for each GPU; without, one for twice as many cores as an encoder has threads, half for media."""
        import torch

        if node.cpus == 0 or (gpu := self.device.startswith("cuda")) and node.gpus == 0:
            return []
        count = node.gpus if gpu else max(1, node.cpus // (2 * torch.get_num_threads()))
        cpus = max(1, node.cpus // count)
        needed = self._needed + _PROCESS_BYTES * cpus
        count = min(count, node.memory // needed)
        if count == 0 and node.id not in self._named:
            self._named.add(node.id)
            offers = f"{node.memory / 1e9:.1f} GB of memory, and a worker needs {needed / 1e9:.1f} GB"
            self._notify(f"note: {node.name}: not used: offers {offers}")
        return [Place(node, cpus, int(gpu), needed)] * count

    def _admit(self, abouts: Sequence[Any]) -> list[str]:
        """What is wrong with the corpus of each node, or ""."""
        if self._sizes is None:  # it is not on this machine, so it is what most nodes have
            columns = zip(*abouts, strict=True)
            self._sizes = [
                Counter(s for s in sizes if s >= 0).most_common(1)[0][0] if max(sizes) >= 0 else -1 for sizes in columns
            ]
        return [self._wrong(sizes) for sizes in abouts]

    def _wrong(self, sizes: Sequence[int]) -> str:
        assert self._sizes is not None
        differ = [i for i, (own, size) in enumerate(zip(sizes, self._sizes, strict=True)) if own != size]
        if not differ:
            return ""
        missing = [i for i in differ if sizes[i] < 0]
        if missing:
            of = f"{len(missing)} of {counted(len(sizes), 'file')} of the corpus"
            return f"lacks {of}, such as {self._root / self._files[missing[0]]}"
        first = self._root / self._files[differ[0]]
        known = self._sizes[differ[0]]
        other = "which is missing here" if known < 0 else f"with {sizes[differ[0]]} bytes instead of {known}"
        return f"has another corpus: {first}, {other}"


def _device_of_nodes(device: str, nodes: Sequence[Node]) -> str:
    if device == "auto":
        return "cuda" if any(node.gpus for node in nodes) else "cpu"
    return "cuda" if device.startswith("cuda") else device  # Ray says which of them


def _on(one: RunExtractor, device: str) -> RunExtractor:
    """An extractor as it is on the nodes, whose provenance may name another device than this machine has."""
    if "device" not in one.provenance:
        return one
    provenance: Any = {**one.provenance, "device": device}
    return dataclasses.replace(one, provenance=provenance)


def _bars(jobs: Sequence[Job], progress: Stages) -> dict[str, Bar]:
    """The progress of the media, and of each text feature, named as on one machine."""
    bars: dict[str, Bar] = {}
    media, texts = ([job for job in jobs if (job.modality == "text") == text] for text in (False, True))
    if media:
        parts, todo = media[0].parts, {index for job in media for index in job.todo}
        bars[_MEDIA] = progress.stage(_MEDIA, sum(map(len, parts)))
        bars[_MEDIA].resume(sum(len(part) for i, part in enumerate(parts) if i not in todo))
    for job in texts:
        bars[job.key] = progress.stage("text" if len(texts) == 1 else job.key, sum(map(len, job.parts)))
        bars[job.key].resume(sum(len(part) for i, part in enumerate(job.parts) if i not in job.todo))
    return bars


def _planned(jobs: Sequence[Job]) -> Iterator[tuple[tuple[str, int], list[Job], int]]:
    """Key, jobs and number of each part: of media first, which take longer, with all features of a part at once."""
    media = [job for job in jobs if job.modality != "text"]
    for index in sorted({index for job in media for index in job.todo}):
        yield (_MEDIA, index), [job for job in media if index in job.todo], index
    for job in jobs:
        if job.modality == "text":
            yield from (((job.key, index), [job], index) for index in job.todo)


def _task(own: Sequence[Job], index: int, corpus: Corpus) -> tuple[PartTask, int]:
    """A part with its own utterances alone, so that no node needs the whole manifest, and the row of the first."""
    part = own[0].parts[index]
    context = max(context_of(job.planned.extractor.wants) for job in own)
    first = max(0, part.start - context)
    manifest = dataclasses.replace(corpus.manifest, utterances=corpus.manifest.utterances[first : part.stop], notes=[])
    todo = {job.key: [row - first for row in job.rows_todo(index)] for job in own}
    sentences = own[0].sentences[first : part.stop]
    return PartTask(manifest, range(part.start - first, part.stop - first), todo, sentences), first


def _paths(own: Sequence[Job], index: int, corpus: Corpus) -> set[str]:
    """The media files of the rows of a part that are to be computed."""
    utterances = corpus.manifest.utterances
    found = {source_of(utterances[row], job.modality)[0] for job in own for row in job.rows_todo(index)}
    return {path for path in found if path is not None} if own[0].modality != "text" else set()


def _put(rows: Any, row: int, came: Came, number: int) -> None:
    """Sets a row to one that came back."""
    rows.count(row, **{name: column[number] for name, column in came.details.items() if name in rows.details})
    frames, times = came.frames[number] if came.frames is not None else (None, None)
    reason = came.reasons[number]
    rows.put(row, None if reason else came.values[number], reason, frames, times)
