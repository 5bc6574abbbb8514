"""Long videos with subtitles that name the speakers: a SubRip (.srt) or WebVTT (.vtt) file next to each video."""

from __future__ import annotations

import html
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from ...toolkit.base.errors import UserError
from ...toolkit.base.words import counted
from ...toolkit.manifest import Manifest, Utterance
from .folder import MEDIA_SUFFIXES, label_names

UNKNOWN = "unknown"
_EXAMPLE = "00:01:02,500 --> 00:01:04,000"
_ENDINGS = (".srt", ".vtt")
_AUDIO = frozenset(".wav .flac .mp3 .m4a .aac .ogg .opus".split())
_STAMP = r"(?:(\d{1,3}):)?(\d{1,2}):(\d{1,2})[,.](\d{1,3})"
_TIMES = re.compile(rf"\s*{_STAMP}\s*-->\s*{_STAMP}(?:\s.*)?", re.ASCII)
# A name: one to four capitalised words, an optional remark in parentheses, then a colon and a space.
_WORD = r"[^\W\d_a-z][\w.'’&-]*"
_NAME = rf"(?P<name>{_WORD}(?: (?:{_WORD}|of|the|and)){{0,3}})(?: \([^()]*\))?"
_NAMED = re.compile(rf"(?:-\s*)?{_NAME}(?::(?= |$)|：)(?P<text>.*)")
_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?(?:\s+(?P<name>[^<>]*))?>")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<[\d:.]+>")
_STYLING = re.compile(r"\{\\[^{}]*\}")  # {\an8} and the like, which players accept in SubRip


@dataclass(frozen=True)
class Cue:
    """The words of one speaker from start to end (seconds); `speaker` is empty if no name is given."""

    start: float
    end: float
    speaker: str
    text: str


def read_subtitles(
    root: Path,
    *,
    speakers: Annotated[
        str | None,
        "Names of the speakers, separated by commas; any other 'Word:' is part of the text.  [default: any name]",
    ] = None,
    labels: Annotated[
        str | None, "Labels in index order, separated by commas, for labels added to the manifest later."
    ] = None,
    split: Annotated[Literal["train", "val", "test"], "The split of all utterances."] = "test",
    name: Annotated[str | None, "Name of the corpus.  [default: the folder's name]"] = None,
) -> Manifest:
    """Videos with SubRip or WebVTT subtitles that name the speakers, one dialogue per file.

    A line "Ann: Hello." or a WebVTT voice tag `<v Ann>` starts an utterance of Ann; lines without a name continue the
    utterance of the last speaker in the same cue. Each utterance has the time span of its cue. Subtitles have no
    labels.

    Args:
        root: the folder; scene.srt or scene.en.srt belongs to the video or audio file scene.* in the same folder.
        speakers: the only names that count as speakers, separated by commas.
        labels: names in index order, separated by commas, for the manifest's header.
        split: the split of every utterance.
        name: name of the corpus; None for the folder's name.

    Raises:
        UserError: no folder, no subtitles, or a line that cannot be read; names file and line.
    """
    root = Path(root)
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such folder; give the folder with the videos and their subtitles")
    allowed = None if speakers is None else {one.strip() for one in speakers.split(",") if one.strip()}
    files = _files(root)
    subtitles = sorted(path for path in files if path.suffix.lower() in _ENDINGS)
    if not subtitles:
        raise UserError(f"{root}: contains no .srt or .vtt file, not even in subfolders")
    utterances: list[Utterance] = []
    notes: list[str] = []
    seen: set[str] = set()
    for path in subtitles:
        cues, shown = parse_subtitles(_read(path), path, allowed), path.relative_to(root).as_posix()
        if [cue.start for cue in cues] != sorted(cue.start for cue in cues):
            notes.append(f"{shown}: the cues are not in chronological order and were sorted")
            cues.sort(key=lambda cue: cue.start)
        if not cues:
            notes.append(f"{shown}: contains no speech")
        media = _media(path, files, shown, notes)
        dialogue = path.relative_to(root).with_suffix("").as_posix()
        if dialogue in seen:
            raise UserError(f"{path}: {dialogue!r} has both an .srt and a .vtt file; remove one of them")
        seen.add(dialogue)
        for i, cue in enumerate(cues):
            utterances.append(
                Utterance(
                    id=f"{dialogue}_{i}",
                    dialogue=dialogue,
                    position=i,
                    speaker=cue.speaker or UNKNOWN,
                    text=cue.text,
                    label=None,
                    split=split,
                    media=None if media is None else media.relative_to(root).as_posix(),
                    start=cue.start,
                    end=cue.end,
                )
            )
    if not utterances:
        raise UserError(f"{root}: the subtitles contain no speech")
    counts = Counter(u.speaker for u in utterances)
    most = ", ".join(f"{who} {count}" for who, count in counts.most_common(12))
    notes.append(f"speakers: {most}{', …' if len(counts) > 12 else ''}")
    if counts[UNKNOWN]:
        notes.append(f"{counted(counts[UNKNOWN], 'utterance')} without a speaker's name, recorded as {UNKNOWN!r}")
    if empty := sum(u.end <= u.start for u in utterances):
        notes.append(f"{counted(empty, 'utterance')} with an empty time span, whose audio and video will be masked")
    return Manifest(name or root.resolve().name or "subtitles", label_names(labels) or [], root, utterances, notes)


def parse_subtitles(text: str, source: str | Path = "subtitles", allowed: set[str] | None = None) -> list[Cue]:
    """The cues of SubRip or WebVTT text, split where the speaker changes.

    Args:
        text: the file's content. WebVTT begins with "WEBVTT"; its NOTE, STYLE and REGION blocks are left out.
        source: the name used in messages.
        allowed: the only names that count as speakers; None accepts anything that looks like a name.

    Raises:
        UserError: a line without times where times are expected; names source and line.
    """
    # Not str.splitlines, which would also split at U+0085, U+2028 and others that occur inside texts.
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    webvtt = lines[0].split(" ")[0].split("\t")[0] == "WEBVTT"
    cues: list[Cue] = []
    for number, block in _blocks(lines):
        first = block[0].strip()
        if webvtt and (number == 1 or re.match(r"(NOTE|STYLE|REGION)(\s|$)", first)):
            continue
        timed = [i for i, line in enumerate(block) if "-->" in line]
        if not timed and len(block) == 1 and first.isdecimal():  # a number whose cue was deleted
            continue
        if not timed or timed[0] > 1:
            raise UserError(
                f"{source}, line {number}: {first[:40]!r} where the times of a cue are expected, like {_EXAMPLE}"
            )
        for i, after in zip(timed, [*timed[1:], None], strict=True):
            match = _TIMES.fullmatch(block[i])
            if match is None or any(int(match[group]) > 59 for group in (2, 3, 6, 7)):
                stamps = block[i].strip()[:60]
                raise UserError(
                    f"{source}, line {number + i}: {stamps!r} are not valid times; write them like {_EXAMPLE}"
                )
            spoken = block[i + 1 : after]
            # The next cue's number, if no blank line comes before it.
            if after is not None and spoken and spoken[-1].strip().isdecimal():
                spoken.pop()
            start, end = _seconds(match, 1), _seconds(match, 5)
            cues += [replace(cue, start=start, end=end) for cue in _utterances(spoken, webvtt, allowed) if cue.text]
    return cues


def _blocks(lines: list[str]) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, lines) of every run of non-blank lines."""
    block: list[str] = []
    for number, line in enumerate([*lines, ""], 1):
        if line.strip():
            block.append(line)
        elif block:
            yield number - len(block), block
            block = []


def _seconds(match: re.Match, group: int) -> float:
    hours, minutes, seconds = (int(match[group + i] or 0) for i in range(3))
    return (hours * 3_600_000 + minutes * 60_000 + seconds * 1000 + int(match[group + 3].ljust(3, "0"))) / 1000


def _utterances(lines: list[str], webvtt: bool, allowed: set[str] | None) -> Iterator[Cue]:
    """The utterances of one cue, without times."""
    speaker, spoken = "", []
    for line in lines:
        for name, text in _voices(line) if webvtt else [(None, line)]:
            text = _plain(text, webvtt)
            if name is None and (match := _NAMED.fullmatch(text)) and (allowed is None or match["name"] in allowed):
                name, text = match["name"], match["text"].strip()
            if name is not None and name != speaker:
                yield Cue(0, 0, speaker, " ".join(spoken))
                speaker, spoken = name, []
            if text:
                spoken.append(text)
    yield Cue(0, 0, speaker, " ".join(spoken))


def _voices(line: str) -> Iterator[tuple[str | None, str]]:
    """(name or None, text) for each piece of a WebVTT line between voice tags."""
    place, name = 0, None
    for match in _VOICE.finditer(line):
        if line[place : match.start()].strip():
            yield name, line[place : match.start()]
        place, name = match.end(), _plain(match["name"] or "", True)
    yield name, line[place:]


def _plain(text: str, webvtt: bool) -> str:
    text = _TAG.sub("", text)
    text = html.unescape(text) if webvtt else _STYLING.sub("", text)
    text = "".join(" " if c.isspace() or c < " " or c == "\x7f" else c for c in text if c not in "\u200e\u200f\ufeff")
    return " ".join(text.split())


def _files(root: Path) -> list[Path]:
    found = []
    for folder, below, files in os.walk(root):
        below[:] = sorted(one for one in below if not one.startswith("."))
        found += [Path(folder) / one for one in sorted(files) if not one.startswith(".")]
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8; save it in that encoding") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _media(path: Path, files: list[Path], shown: str, notes: list[str]) -> Path | None:
    """The video, or else the audio file, that subtitles belong to."""
    stems = [path.stem, path.stem.rsplit(".", 1)[0]]  # scene.en.srt belongs to scene.mp4
    for stem in stems:
        beside = [f for f in files if f.parent == path.parent and f.stem == stem and f.suffix.lower() in MEDIA_SUFFIXES]
        beside.sort(key=lambda f: f.suffix.lower() in _AUDIO)
        if beside:
            if len(beside) > 1:
                notes.append(f"{shown}: {beside[0].name} is used; not used: {', '.join(f.name for f in beside[1:])}")
            return beside[0]
    notes.append(f"{shown}: no video or audio file of that name in the same folder; text only")

    return None
