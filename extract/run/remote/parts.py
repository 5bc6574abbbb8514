"""A part on its way: what a node is asked for, and the rows that come back, as bytes that hold arrays and no code."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ....toolkit.base.errors import FaultError
from ....toolkit.manifest import Manifest
from ..rows.origins import FileFacts
from ..rows.parts import FeaturePlan, Rows


@dataclass(frozen=True)
class PartTask:
    """A part to compute.

    Attributes:
        manifest: its utterances, and before them those that texts have as context.
        part: its rows in this manifest.
        todo: by the key of each feature, the rows that are to be computed.
        sentences: for each utterance of the manifest how it is spoken, if texts are read with it.
    """

    manifest: Manifest
    part: range
    todo: Mapping[str, Sequence[int]]
    sentences: Sequence[str] = ()


@dataclass
class PartResult:
    """What a node has computed of a part.

    Attributes:
        rows: by the key of each feature, all rows of the part, of which those to be computed are set.
        files: the media files that were read.
        faults: utterances whose worker failed for no known reason, and what happened.
        seconds: of work, by what it was for.
        crops: name and content of the files of `--save-crops`.
    """

    rows: dict[str, Rows]
    files: Sequence[FileFacts] = ()
    faults: Sequence[str] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    crops: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Came:
    """The rows of one feature that came back, in the order in which they were asked for; attributes as in `Rows`."""

    values: np.ndarray
    reasons: list[str]
    made_from: list[str]
    details: dict[str, np.ndarray]
    frames: list[tuple[np.ndarray, np.ndarray]] | None


@dataclass(frozen=True)
class Arrived:
    """A part that came back; the attributes are those of `PartResult`."""

    rows: dict[str, Came]
    files: list[FileFacts]
    faults: list[str]
    seconds: dict[str, float]
    crops: dict[str, bytes]


def packed(result: PartResult, todo: Mapping[str, Sequence[int]]) -> bytes:
    """A result as bytes: an .npz of the rows in `todo`."""
    arrays: dict[str, np.ndarray] = {}
    features = []
    for number, (key, rows) in enumerate(result.rows.items()):
        own = np.array([row - rows.first for row in todo[key]], np.int64)
        arrays[f"{number}.values"] = rows.values[own]
        for name, column in rows.details.items():
            arrays[f"{number}.detail.{name}"] = column[own]
        if rows.frame_width:
            none = np.zeros((0, rows.frame_width), np.float32), np.zeros(0)
            kept = [rows.frames.get(row, none) for row in todo[key]]
            arrays[f"{number}.counts"] = np.array([len(times) for _, times in kept], np.int64)
            arrays[f"{number}.frames"] = np.concatenate([none[0], *(frames for frames, _ in kept)])
            arrays[f"{number}.times"] = np.concatenate([none[1], *(times for _, times in kept)])
        features.append(
            {
                "key": key,
                "details": list(rows.details),
                "frames": bool(rows.frame_width),
                "reasons": [rows.reasons[i] for i in own],
                "made_from": [rows.made_from[i] for i in own],
            }
        )
    for number, content in enumerate(result.crops.values()):
        arrays[f"crop.{number}"] = np.frombuffer(content, np.uint8)
    about = {
        "features": features,
        "files": [[file.identity, file.size, file.content] for file in result.files],
        "faults": list(result.faults),
        "seconds": result.seconds,
        "crops": list(result.crops),
    }
    buffer = io.BytesIO()
    np.savez(buffer, about=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)  # pyright: ignore
    return buffer.getvalue()


def unpacked_part(data: bytes) -> Arrived:
    """The result in bytes that `packed` made.

    Raises:
        FaultError: they are something else.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as found:
            about: Any = json.loads(found["about"].tobytes())
            rows = {one["key"]: _came(found, number, one) for number, one in enumerate(about["features"])}
            crops = {str(name): found[f"crop.{number}"].tobytes() for number, name in enumerate(about["crops"])}
            files = [FileFacts(str(identity), int(size), str(content)) for identity, size, content in about["files"]]
            return Arrived(rows, files, list(map(str, about["faults"])), dict(about["seconds"]), crops)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, EOFError) as error:
        raise FaultError(f"a node returned a damaged part: {error}") from None


def _came(found: Any, number: int, one: dict[str, Any]) -> Came:
    values, reasons, made_from = found[f"{number}.values"], list(map(str, one["reasons"])), list(one["made_from"])
    details = {name: found[f"{number}.detail.{name}"] for name in one["details"]}
    if any(len(column) != len(values) for column in (reasons, made_from, *details.values())):
        raise ValueError("its columns differ in length")
    frames = None
    if one["frames"]:
        ends = np.cumsum(found[f"{number}.counts"])
        if len(ends) != len(values):
            raise ValueError("its columns differ in length")
        every, times = found[f"{number}.frames"], found[f"{number}.times"]
        frames = [(every[a:b], times[a:b]) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    return Came(values, reasons, made_from, details, frames)


def plain_plan(plan: FeaturePlan) -> Any:
    """A plan as JSON has it, so that two can be compared."""
    return json.loads(json.dumps(plan))
