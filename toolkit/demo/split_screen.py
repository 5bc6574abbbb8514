"""The demo corpus in IEMOCAP's raw layout: dialogues of two, each in its half of a split-screen video.

One video and one audio file for a dialogue, transcriptions with time stamps, evaluations, and an audio file for each
turn. Sessions 1 to 4 are for training, session 5 for the test; two of the training dialogues have names of the official
validation split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..base.files import write_atomically
from .clips import write_clip
from .faces import HEIGHT, WIDTH, render
from .looks import speaker_look
from .script import FPS, Line, stream, syllables, write_dialogue
from .voice import OUT_RATE, speak

# Who plays the woman and the man of each session.
CAST = (("Alma", "Boris"), ("Clara", "Duncan"), ("Edda", "Farid"), ("Alma", "Duncan"), ("Clara", "Farid"))
# IEMOCAP's codes of what the demo displays; frustration is the nearest to disgust and fear.
CODES = {
    "neutral": ("neu", "Neutral"),
    "surprise": ("exc", "Excited"),
    "fear": ("fru", "Frustration"),
    "sadness": ("sad", "Sadness"),
    "joy": ("hap", "Happiness"),
    "disgust": ("fru", "Frustration"),
    "anger": ("ang", "Anger"),
}
NAMES = ("F_impro01", "M_impro01", "F_impro02", "M_impro03", "F_impro05")  # of a session's dialogues
_BEFORE, _BETWEEN = 8, 4  # frames before the first turn, and between turns
_RATE = 16_000
_STILL = 3  # frames from which a listener's face is taken


@dataclass(frozen=True, slots=True)
class Placed:
    """A line in its dialogue: the turn's id, "F" or "M", and its first frame."""

    line: Line
    turn: str
    letter: str
    first: int

    @property
    def times(self) -> tuple[float, float]:
        """Start and end in seconds."""
        return self.first / FPS, (self.first + self.line.frames) / FPS


def make_dialogues(seed: int, number: int) -> dict[str, list[Placed]]:
    """The first `number` dialogues, at least one of each session: name to its turns."""
    names = [(f"Ses0{session}{name}", session) for name in NAMES for session in range(1, 6)][:number]
    found = {}
    for dialogue, (name, session) in enumerate(sorted(names)):
        lines = write_dialogue(seed, "iemocap", dialogue, CAST[session - 1])
        turns, first, counts = [], _BEFORE, {"F": 0, "M": 0}
        for line in lines:
            letter = "FM"[CAST[session - 1].index(line.speaker)]
            turns.append(Placed(line, f"{name}_{letter}{counts[letter]:03d}", letter, first))
            counts[letter] += 1
            first += line.frames + _BETWEEN
        found[name] = turns
    return found


def write_texts(root: Path, name: str, turns: Sequence[Placed]) -> None:
    """A dialogue's transcription and evaluation, in the release's formats."""
    folder = _session(root, name) / "dialog"
    spoken, rated = [], ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
    for turn in turns:
        (start, end), (code, category) = turn.times, CODES[turn.line.emotion]
        spoken.append(f"{turn.turn} [{start:08.4f}-{end:08.4f}]: {turn.line.text}")
        rated += [f"[{start:.4f} - {end:.4f}]\t{turn.turn}\t{code}\t[2.5000, 2.5000, 2.5000]"]
        rated += [f"C-E{i}:\t{category};\t()" for i in (1, 2, 3)]
        rated += ["A-E1:\tval 3; act 2; dom  2;\t()", ""]
    for kind, lines in (("transcriptions", spoken), ("EmoEvaluation", rated)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        write_atomically(folder / kind / f"{name}.txt", ("\n".join(lines) + "\n").encode())


def write_media(root: Path, name: str, turns: Sequence[Placed], seed: int) -> None:
    """A dialogue's video and audio, and an audio file for each turn."""
    session = _session(root, name)
    count = turns[-1].first + turns[-1].line.frames + _BEFORE
    samples = round(_RATE / FPS)
    audio = np.zeros(count * samples, np.float32)
    cast = CAST[int(name[4]) - 1]
    # The actor who wears the markers is shown on the left.
    halves = {letter: 0 if letter == name[5] else 1 for letter in "FM"}
    frames = np.empty((count, HEIGHT, 2 * WIDTH, 3), np.uint8)
    for letter, half in halves.items():
        look, random = speaker_look(seed, cast["FM".index(letter)]), stream(seed, "listening", name, letter)
        still, _ = render(look, "neutral", np.zeros(_STILL), random)
        frames[:, :, half * WIDTH : (half + 1) * WIDTH] = still[-1]
    for turn in turns:
        line, key = turn.line, ("iemocap", turn.line.dialogue, turn.line.utterance)
        voice, loudness = speak(
            line.speaker, line.shown["voice"], syllables(line.text), line.frames, stream(seed, "voice", *key)
        )
        voice = voice.reshape(-1, OUT_RATE // _RATE).mean(1)  # as the release, 16 kHz
        face, _ = render(speaker_look(seed, line.speaker), line.shown["face"], loudness, stream(seed, "face", *key))
        at, half = slice(turn.first, turn.first + line.frames), halves[turn.letter]
        frames[at, :, half * WIDTH : (half + 1) * WIDTH] = face
        audio[at.start * samples : at.start * samples + len(voice)] = voice
        sentences = session / "sentences" / "wav" / name
        sentences.mkdir(parents=True, exist_ok=True)
        path = sentences / f"{turn.turn}.wav"
        write_clip(path, None, voice, sample_rate=_RATE, audio_codec="pcm_s16le")
    for kind in ("avi/DivX", "wav"):
        (session / "dialog" / kind).mkdir(parents=True, exist_ok=True)
    both = np.stack([audio, audio], 1)
    video = session / "dialog" / "avi" / "DivX" / f"{name}.avi"
    write_clip(video, frames, both, fps=FPS, sample_rate=_RATE, video_codec="mpeg4", audio_codec="pcm_s16le")
    wav = session / "dialog" / "wav" / f"{name}.wav"
    write_clip(wav, None, both, sample_rate=_RATE, audio_codec="pcm_s16le")


def split_of(name: str, validation: Sequence[str]) -> str:
    """The official split of a dialogue."""
    return "test" if name[4] == "5" else "val" if name in validation else "train"


def _session(root: Path, name: str) -> Path:
    return root / f"Session{name[4]}"
