"""A model's predictions for the turns of a recording, and writing them as JSON, CSV, SubRip and WebVTT."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..base.csv_cells import csv_text
from ..base.cue_text import cue_line, cue_time
from ..base.files import write_atomically

FILES = ("turns.json", "turns.csv", "turns.srt", "turns.vtt")
COLUMNS = ("id", "start", "end", "speaker", "text", "emotion", "probability")  # the first ones of turns.csv


@dataclass(frozen=True)
class Turn:
    """One turn of a recording and the model's prediction for it.

    Attributes:
        id, speaker, text: the turn's.
        start, end: in seconds.
        emotion: the most probable emotion.
        probability: its probability.
        probabilities: the probability of every emotion, in index order.
        opinions: modality to (emotion, probability), the prediction from it alone; None if the turn does not have it.
        missing: modality to the reason why the turn does not have it.
    """

    id: str
    speaker: str
    text: str
    start: float
    end: float
    emotion: str
    probability: float
    probabilities: dict[str, float]
    opinions: dict[str, tuple[str, float] | None]
    missing: dict[str, str]


@dataclass(frozen=True)
class Media:
    """The recording that turns are from, for a page beside it.

    Attributes:
        name: its file name.
        link: where it is, relative to the page, as a URL; empty if there is no such way.
        pictures: whether it has a video track.
    """

    name: str
    link: str
    pictures: bool


def write_turns(turns: Sequence[Turn], folder: Path, about: Mapping[str, object]) -> None:
    """Writes turns.json (starting with `about`), turns.csv, turns.srt and turns.vtt to a folder.

    Raises:
        OSError: a file cannot be written.
    """
    content = {**about, "turns": [asdict(turn) for turn in turns]}
    text = json.dumps(content, ensure_ascii=False, indent=1) + "\n"
    for name, data in zip(FILES, (text, table(turns), subrip(turns), webvtt(turns)), strict=True):
        write_atomically(folder / name, data.encode("utf-8"))


def table(turns: Sequence[Turn]) -> str:
    """CSV with the columns id, start, end, speaker, text, emotion, probability; MODALITY_emotion and
    MODALITY_probability for each modality; and p_EMOTION for each emotion. Texts are written by `safe_cell`."""
    modalities, labels = list(turns[0].opinions), list(turns[0].probabilities)
    columns = [name for m in modalities for name in (f"{m}_emotion", f"{m}_probability")]
    rows: list[list[str]] = [[*COLUMNS, *columns, *(f"p_{label}" for label in labels)]]
    for t in turns:
        alone: list[str] = []
        for modality in modalities:
            opinion = t.opinions[modality]
            alone += ["", ""] if opinion is None else [opinion[0], f"{opinion[1]:.6f}"]
        cells = [t.id, f"{t.start:.3f}", f"{t.end:.3f}", t.speaker, t.text, t.emotion, f"{t.probability:.6f}"]
        rows.append([*cells, *alone, *(f"{t.probabilities[label]:.6f}" for label in labels)])
    return csv_text(rows)


def subrip(turns: Sequence[Turn]) -> str:
    """SubRip with one cue per turn: "Ann [joy 83 %]: text"."""
    # A blank line ends a cue, and "-->" would start one.
    cues = (
        f"{i}\n{cue_time(t.start, ',')} --> {cue_time(t.end, ',')}\n{cue_line(_spoken(t))}\n"
        for i, t in enumerate(turns, 1)
    )
    return "\n".join(cues)


def webvtt(turns: Sequence[Turn]) -> str:
    """WebVTT with one cue per turn; the speaker is the cue's voice, and the emotion a class for style sheets."""
    cues = ["WEBVTT\n"]
    for t in turns:
        kind = re.sub(r"[\W_]+", "-", t.emotion).strip("-") or "emotion"  # "-->" would start a cue
        speaker = html.escape(cue_line(t.speaker), quote=False)
        spoken = html.escape(cue_line(f"[{t.emotion} {round(100 * t.probability)} %] {t.text}"), quote=False)
        cues.append(f"{cue_time(t.start, '.')} --> {cue_time(t.end, '.')}\n<v {speaker}><c.{kind}>{spoken}</c>\n")
    return "\n".join(cues)


def _spoken(turn: Turn) -> str:
    return f"{turn.speaker} [{turn.emotion} {round(100 * turn.probability)} %]: {turn.text}"
