"""The other files: SubRip, WebVTT with voices, RTTM, and a manifest of the turns."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

from ...toolkit.manifest import Manifest, Utterance
from .turns import VoiceTurn

SPOKEN = (".srt", ".vtt")  # they have no turn without words


def subrip(turns: Sequence[VoiceTurn]) -> str:
    """SubRip, one cue per turn with words: "Ann: text"."""
    cues = (
        f"{i}\n{_stamp(t.start, ',')} --> {_stamp(t.end, ',')}\n{_line(f'{t.speaker}: {t.text}')}\n"
        for i, t in enumerate((t for t in turns if t.text), 1)
    )
    return "\n".join(cues)


def webvtt(turns: Sequence[VoiceTurn]) -> str:
    """WebVTT, one cue per turn with words, whose voice is the speaker."""
    cues = ["WEBVTT\n"]
    for t in turns:
        if t.text:
            name, text = (html.escape(_line(part), quote=False) for part in (t.speaker, t.text))
            cues.append(f"{_stamp(t.start, '.')} --> {_stamp(t.end, '.')}\n<v {name}>{text}</v>\n")
    return "\n".join(cues)


def rttm(turns: Sequence[VoiceTurn], name: str) -> str:
    """NIST's RTTM, a line per turn; spaces in names are written as underscores.

    Args:
        turns: of one recording.
        name: of the recording.
    """
    file = re.sub(r"\s+", "_", name) or "recording"
    return "".join(
        f"SPEAKER {file} 1 {t.start:.3f} {t.end - t.start:.3f} <NA> <NA> {rttm_name(t.speaker)} <NA> <NA>\n"
        for t in turns
    )


def rttm_name(name: str) -> str:
    """A name as one field of RTTM."""
    return "_".join(name.split())


def manifest_of(turns: Sequence[VoiceTurn], media: Path, name: str) -> Manifest:
    """A manifest of one dialogue, without labels, as `erc_toolkit.extract.recording.read_recording` makes it.

    Args:
        turns: in order of time.
        media: the recording.
        name: of the corpus and the dialogue.
    """
    utterances = [
        Utterance(
            id=f"{name}_{i}",
            dialogue=name,
            position=i,
            speaker=t.speaker,
            text=t.text,
            label=None,
            split="test",
            media=media.name,
            start=t.start,
            end=t.end,
        )
        for i, t in enumerate(turns)
    ]
    return Manifest(name, [], media.parent, utterances)


def _line(text: str) -> str:
    """A text in one line; "-->" would begin a cue."""
    return " ".join(text.split()).replace("-->", "→")


def _stamp(seconds: float, mark: str) -> str:
    ms = max(0, round(1000 * seconds))
    return f"{ms // 3_600_000:02d}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}{mark}{ms % 1000:03d}"
