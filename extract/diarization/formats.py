"""The other files: SubRip, WebVTT with voices, RTTM, and a manifest of the turns."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path

from ...toolkit.base.cue_text import cue_line, cue_time
from ...toolkit.manifest import Manifest, Utterance
from .turns import VoiceTurn

SPOKEN = (".srt", ".vtt")  # they have no turn without words


def subrip(turns: Sequence[VoiceTurn]) -> str:
    """SubRip, one cue per turn with words: "Ann: text"."""
    cues = (
        f"{i}\n{cue_time(t.start, ',')} --> {cue_time(t.end, ',')}\n{cue_line(f'{t.speaker}: {t.text}')}\n"
        for i, t in enumerate((t for t in turns if t.text), 1)
    )
    return "\n".join(cues)


def webvtt(turns: Sequence[VoiceTurn]) -> str:
    """WebVTT, one cue per turn with words, whose voice is the speaker."""
    cues = ["WEBVTT\n"]
    for t in turns:
        if t.text:
            name, text = (html.escape(cue_line(part), quote=False) for part in (t.speaker, t.text))
            cues.append(f"{cue_time(t.start, '.')} --> {cue_time(t.end, '.')}\n<v {name}>{text}</v>\n")
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
    return Manifest(name, [], media.parent, utterances_of(turns, name, media.name))


def utterances_of(turns: Sequence[VoiceTurn], dialogue: str, media: str, split: str = "test") -> list[Utterance]:
    """The turns of one recording as utterances without labels.

    Args:
        turns: in order of time.
        dialogue: the dialogue's id, with which the utterances' begin.
        media: path of the recording below the manifest's root.
        split: of all of them.
    """
    return [
        Utterance(
            id=f"{dialogue}_{i}",
            dialogue=dialogue,
            position=i,
            speaker=turn.speaker,
            text=turn.text,
            label=None,
            split=split,
            media=media,
            start=turn.start,
            end=turn.end,
        )
        for i, turn in enumerate(turns)
    ]
