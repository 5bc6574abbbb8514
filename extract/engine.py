"""The extraction run: manifest in, feature store out.

Worker processes decode media, compute functionals and cut out faces; the text encoder runs in a thread of its own and
the face encoder in the main thread, which also collects the rows. docs/architecture.md follows one utterance through.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np

from extract.worker import Found, Span, Task, Wanted, process, set_up
from toolkit.errors import UserError
from toolkit.manifest import MODALITIES, Manifest
from toolkit.media import ffmpeg_version
from toolkit.progress import Bar, progress_bar
from toolkit.store import StoreWriter


@dataclass(frozen=True)
class Options:
    """What to extract and how; the fields are the options of `erc-toolkit extract`."""

    modalities: tuple[str, ...] = MODALITIES
    text_model: str = "roberta-large"
    pooling: str = "mean"
    audio_set: str = "ComParE_2016"
    visual_model: str = "densenet121"
    visual_weights: str = "imagenet"
    face_detector: str = "yunet"
    face_model: Path | None = None
    fps: float = 5.0
    face_margin: float = 0.1
    most_frames: int = 100
    save_crops: Path | None = None
    device: str = "auto"
    workers: int = 0
    time_limit: float = 1800.0


@dataclass
class Summary:
    """What a run gave: seconds in all and per stage, media seconds, and each feature's rows and reasons."""

    utterances: int
    dialogues: int
    seconds: float
    stages: dict[str, float]
    media_seconds: float
    features: dict[str, tuple[int, int, dict[str, int]]]  # name -> (dim, present, reason -> count)


class Matrix:
    """One feature matrix as it fills: a row has either values or a reason."""

    def __init__(self, rows: int, dim: int):
        self.values = np.zeros((rows, dim), np.float32)
        self.present = np.zeros(rows, bool)
        self.reasons = ["not processed"] * rows

    def put(self, row: int, values: np.ndarray | None, reason: str) -> None:
        if values is not None and not np.isfinite(values).all():
            values, reason = None, "the encoder gave NaN or infinity"
        self.present[row] = values is not None
        self.reasons[row] = "" if values is not None else reason
        if values is not None:
            self.values[row] = values


def extract(manifest: Manifest, out: Path, options: Options, command: str = "", notify=print) -> Summary:
    """Extracts a manifest's features into a store at `out`.

    Args:
        manifest: the corpus.
        out: the store to write; it appears complete or not at all.
        options: what to extract.
        command: the command line, for the record.
        notify: told one line about each encoder that is used.

    Returns:
        the run's summary.

    Raises:
        UserError: a model that cannot be had, no folder to write to, or a modality that no utterance has.
    """
    began = time.perf_counter()
    if not out.parent.is_dir():
        raise UserError(f"--out {out}: the folder {out.parent} does not exist; make it first")
    text, audio, visual, detector = _encoders(options)
    for encoder in (text, audio, visual):
        if encoder is not None:
            made = encoder.provenance()
            notify(f"{encoder.modality}: {made['model']}, {encoder.dim} dimensions" + _origin(made))
    if detector is not None:
        notify(f"faces: {options.face_detector} ({detector[0].name}), {options.fps:g} pictures a second")
    n = len(manifest.utterances)
    stages = {"load": time.perf_counter() - began}
    matrices = {e.modality: Matrix(n, e.dim) for e in (text, audio, visual) if e is not None}
    details: dict[str, dict[str, np.ndarray]] = {
        "audio": {"seconds": np.zeros(n)},
        "visual": {"frames": np.zeros(n, np.int32), "faces": np.zeros(n, np.int32)},
    }
    tasks = _plan(manifest, matrices)
    wanted = Wanted(
        audio_set=audio.name if audio else None,
        detector=options.face_detector if visual else None, detector_model=detector[0] if visual else None,
        fps=options.fps, crop_size=visual.architecture.size if visual else 0,
        grey=visual.architecture.grey if visual else False, margin=options.face_margin,
        most_frames=options.most_frames, time_limit=options.time_limit,
    )  # fmt: skip
    if options.save_crops is not None:
        options.save_crops.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(1) as side, progress_bar("extract", len(tasks) + (n if text else 0)) as bar:
        writing = side.submit(_read_texts, text, manifest, matrices, details, bar, stages) if text else None
        faces = 0.0
        for found in _run(tasks, wanted, options.workers or os.cpu_count() or 1, bar):
            for one in found:
                faces += _collect(one, matrices, details, visual, options.save_crops, manifest)
        if visual:
            stages["face encoder"] = faces
        stages["media"] = bar.seconds
        if writing is not None:
            writing.result()
    for modality, matrix in matrices.items():
        if not matrix.present.any():
            most = Counter(matrix.reasons).most_common(1)[0]
            raise UserError(f"no utterance has {modality}: {most[1]} times {most[0]!r}; nothing was written to {out}")
    _write(manifest, out, command, options, (text, audio, visual), detector, matrices, details)
    return Summary(
        n, sum(1 for _ in manifest.dialogues()), time.perf_counter() - began, stages,
        float(details["audio"]["seconds"].sum()),
        {
            f"{e.modality}/{e.name.replace('/', '--')}": (
                e.dim, int(matrices[e.modality].present.sum()),
                dict(Counter(r.split(":")[0] for r in matrices[e.modality].reasons if r).most_common()),
            )
            for e in (text, audio, visual) if e is not None
        },
    )  # fmt: skip


def _encoders(options: Options):
    """Makes what was asked for, cheapest lack first, so that a missing model is told before anything else is done."""
    text = audio = visual = detector = None
    if "visual" in options.modalities:
        from extract.faces import face_model, make_detector

        detector = face_model(options.face_detector, options.face_model)
        make_detector(options.face_detector, detector[0])
    if "audio" in options.modalities:
        from extract.audio import functionals

        audio = functionals(options.audio_set)
    if "visual" in options.modalities:
        from extract.visual import FaceEncoder
        from extract.weights import pick_device

        visual = FaceEncoder(options.visual_model, options.visual_weights, pick_device(options.device))
    if "text" in options.modalities:
        from extract.text import TextEncoder
        from extract.weights import pick_device

        text = TextEncoder(options.text_model, options.pooling, pick_device(options.device))
    return text, audio, visual, detector


def _origin(made: dict[str, object]) -> str:
    parts = [str(made["weights"])] if "weights" in made else []
    if "weights_sha256" in made:
        parts.append(f"weights sha256 {str(made['weights_sha256'])[:12]}…, on {made['device']}")
    return f" ({'; '.join(parts)})" if parts else ""


def _plan(manifest: Manifest, matrices: dict[str, Matrix]) -> list[Task]:
    """Groups utterances by the files that hold them, so that each file is opened once; rules out what cannot be."""
    spans: dict[str, dict[tuple, Span]] = defaultdict(dict)
    for row, u in enumerate(manifest.utterances):
        sources = {
            "audio": (u.audio, u.audio_start, u.audio_end) if u.audio else (u.media, u.start, u.end),
            "visual": (u.media, u.start, u.end),
        }
        for modality in ("audio", "visual"):
            if modality not in matrices:
                continue
            path, start, end = sources[modality]
            reason = u.mask.get(modality) or ("no media file in the manifest" if path is None else "")
            if not reason and ((start or 0) < 0 or (end is not None and end <= (start or 0))):
                reason = f"time stamps that make no span: {start} to {end} s"
            if reason:
                matrices[modality].put(row, None, reason)
                continue
            old = spans[path].get((row, start, end))
            spans[path][row, start, end] = Span(
                row, start, end, u.region, modality == "audio" or (old is not None and old.audio), modality == "visual"
            )
    return [Task(manifest.path(path), list(group.values())) for path, group in spans.items()]


def _run(tasks: Sequence[Task], wanted: Wanted, workers: int, bar: Bar) -> Iterator[list[Found]]:
    """Runs the tasks in worker processes, a bounded number under way at once; yields results as they come."""
    if not tasks:
        return
    # One server imports openSMILE and OpenCV once and forks the workers from itself, free of this process's threads.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["extract.worker"])
    waiting = iter(tasks)
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context, initializer=set_up) as pool:
        pending: dict[Future, Task] = {}
        try:
            while True:
                while len(pending) < 3 * workers and (task := next(waiting, None)) is not None:
                    pending[pool.submit(process, task, wanted)] = task
                if not pending:
                    return
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    task = pending.pop(future)
                    yield future.result()
                    bar.advance(1)
        except BrokenProcessPool:
            files = ", ".join(sorted(t.path.name for t in pending.values())[:4])
            raise UserError(
                f"a worker process died (out of memory?) while these were under way: {task.path.name}, {files}; "
                "try fewer --workers"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _collect(one: Found, matrices, details, visual, save_crops: Path | None, manifest: Manifest) -> float:
    """Puts what one file gave for an utterance into its row; returns the seconds that the face encoder took."""
    began = time.perf_counter()
    if one.audio is not None or one.audio_reason:
        matrices["audio"].put(one.row, one.audio, one.audio_reason)
        details["audio"]["seconds"][one.row] = one.audio_seconds
    if one.crops is None and not one.visual_reason:
        return 0.0
    details["visual"]["frames"][one.row], details["visual"]["faces"][one.row] = one.frames, one.faces
    if one.crops is None:
        matrices["visual"].put(one.row, None, one.visual_reason)
        return 0.0
    from extract.visual import average

    matrices["visual"].put(one.row, average(visual(one.crops[i : i + 64]) for i in range(0, len(one.crops), 64)), "")
    if save_crops is not None:
        _save_crops(save_crops, manifest.utterances[one.row].id, one.crops)
    return time.perf_counter() - began


def _save_crops(folder: Path, utterance: str, crops: np.ndarray) -> None:
    """Writes an utterance's crops side by side into one PNG named after it."""
    import cv2

    sheet = np.concatenate(list(crops[:: max(1, len(crops) // 12)][:12]), axis=1)
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in utterance).lstrip(".")
    cv2.imwrite(str(folder / f"{name}.png"), sheet if sheet.ndim == 2 else cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


def _read_texts(text, manifest: Manifest, matrices, details, bar: Bar, stages: dict[str, float]) -> None:
    began = time.perf_counter()
    texts = ["" if "text" in u.mask else u.text for u in manifest.utterances]
    values, reasons, columns = text(texts, bar.advance)
    for row, (vector, reason) in enumerate(zip(values, reasons)):
        reason = manifest.utterances[row].mask.get("text", reason)
        matrices["text"].put(row, None if reason else vector, reason)
    details["text"] = columns
    stages["text"] = time.perf_counter() - began


def _write(manifest, out, command, options, encoders, detector, matrices, details) -> None:
    with StoreWriter(
        out, corpus=manifest.corpus, labels=manifest.labels, utterances=manifest.utterances, command=command,
        attrs={"notes": json.dumps(manifest.notes, ensure_ascii=False)},
    ) as writer:  # fmt: skip
        for encoder in encoders:
            if encoder is None:
                continue
            made = encoder.provenance()
            if encoder.modality == "visual":
                from extract.faces import YUNET_SCORE

                made["versions"] = {**made["versions"], "opencv": version("opencv-python-headless"), "ffmpeg": ffmpeg_version()}
                made["parameters"] = {
                    "frames_per_second": options.fps, "most_frames": options.most_frames,
                    "face_detector": options.face_detector, "face_model_sha256": detector[1],
                    "least_score": YUNET_SCORE if options.face_detector == "yunet" else "the cascade's own",
                    "choice": "the face that overlaps the last one, else the largest",
                    "crop_pixels": encoder.architecture.size, "crop_margin": options.face_margin,
                    "aligned": "five landmarks" if options.face_detector == "yunet" else "no, box alone",
                    "mean": encoder.architecture.mean, "std": encoder.architecture.std, "pooling": "mean over frames",
                }  # fmt: skip
            matrix = matrices[encoder.modality]
            writer.add_feature(
                encoder.modality, encoder.name, matrix.values, matrix.present, matrix.reasons, attrs=made,
                details=details[encoder.modality], dimension_names=getattr(encoder, "dimension_names", ()),
            )  # fmt: skip
