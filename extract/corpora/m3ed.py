"""M3ED: dialogues of Chinese television series, annotated in JSON, with audio clips and videos of the dialogues."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ... import manifests
from ...toolkit.base.errors import UserError
from ...toolkit.base.media_endings import AUDIO_SUFFIXES, MEDIA_SUFFIXES
from ...toolkit.base.reading.plain_json import parse_json
from ...toolkit.base.reading.plain_numbers import shown
from ...toolkit.base.reading.texts import read_text
from ...toolkit.base.words import counted
from ...toolkit.manifest import Manifest, Utterance
from .tree import need_folder, some, walk

_TIME = re.compile(r"(\d{1,2}):(\d{1,2}):(\d{1,2}):(\d{1,3})", re.ASCII)
_NUMBER = re.compile(r"_(\d{1,6})", re.ASCII)
_ANNOTATION = "annotation.json"
_LIST = "movie_list_{}.txt"
_ANNOTATORS = ("EmoAnnotator1", "EmoAnnotator2", "EmoAnnotator3")


def read_m3ed(root: Path) -> Manifest:
    """M3ED: a folder with annotation.json, and with its audio clips and videos of the dialogues where you have them.

    Args:
        root: the folder; annotation.json, the lists of series, the clips A_anjia_1_1.wav and the videos anjia_1.mp4 are
            searched for down to the third level below it.

    Returns:
        Dialogues and utterances with the annotation's ids, "anjia_1" and "anjia_1_1". The label is the final main
        emotion. The speaker is "anjia_NAME", as names are unique in a series only. `extra` has series, speaker_letter
        (A or B), age and gender, emotions (all of the utterance's), votes (the emotions of each annotator),
        source_start and source_end (seconds in the dialogue).

    Raises:
        UserError: no such folder, no annotation, one without M3ED's fields, or a series that is in no split or in two.
    """
    root = Path(root)
    need_folder(root, "the folder with M3ED's annotation.json")
    found = walk(root)
    if _ANNOTATION not in found:
        raise UserError(f"{root}: contains no {_ANNOTATION}; give the folder with M3ED's annotation")
    path = found[_ANNOTATION]
    facts = manifests.load("m3ed.yaml")
    text, _ = read_text(path, "file", windows=False)
    try:
        content = parse_json(text)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    notes: list[str] = []
    splits = _splits(found, facts["splits"], notes)
    media = _Media(root, found)
    reader = _Reader(path, facts, media)
    utterances: list[Utterance] = []
    for series, dialogues in _object(content, f"{path}").items():
        if series not in splits:
            raise UserError(
                f"{path}: series {shown(series)} is in no split; add it to {_LIST.format('train')} or another"
            )
        for dialogue, one in _object(dialogues, f"{path}, {series}").items():
            utterances += reader.dialogue(series, dialogue, one, splits[series])
    if not utterances:
        raise UserError(f"{path}: contains no utterances; is it M3ED's?")
    return Manifest("m3ed", facts["labels"], root, utterances, [*notes, *reader.notes(len(utterances))])


def parse_time(text: str, frames_per_second: int) -> float | None:
    """Seconds of HH:MM:SS:FF, where FF is a number of frames; None for anything else.

    FF is above the frame rate in some time stamps of the release, as some series have another one: it is counted as it
    is, as in the authors' statistics.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None or int(match[2]) > 59 or int(match[3]) > 59:
        return None
    return int(match[1]) * 3600 + int(match[2]) * 60 + int(match[3]) + int(match[4]) / frames_per_second


def _splits(found: Mapping[str, Path], known: Mapping[str, list[str]], notes: list[str]) -> dict[str, str]:
    """The split of each series: by the lists beside the annotation, or those of the release."""
    lists = {split: found.get(_LIST.format(split)) for split in known}
    if missing := [_LIST.format(split) for split, path in lists.items() if path is None]:
        notes.append(f"{', '.join(missing)} not found: the splits are those of the release")
        return {series: split for split, names in known.items() for series in names}
    splits: dict[str, str] = {}
    for split, path in lists.items():
        assert path is not None
        for number, line in enumerate(read_text(path, "list")[0].splitlines(), 1):
            series = line.strip()
            if series and splits.setdefault(series, split) != split:
                raise UserError(f"{path}, line {number}: {series} is also in the {splits[series]} split; remove one")
    return splits


class _Media:
    """The clips and videos that there are, by the names that the annotation gives them."""

    def __init__(self, root: Path, found: Mapping[str, Path]) -> None:
        files = {name: path.relative_to(root).as_posix() for name, path in found.items()}
        suffixes = {name: Path(name).suffix.lower() for name in files}
        self.clips = {Path(name).stem: path for name, path in files.items() if suffixes[name] in AUDIO_SUFFIXES}
        videos = MEDIA_SUFFIXES - AUDIO_SUFFIXES
        self.videos = {Path(name).stem: path for name, path in files.items() if suffixes[name] in videos}

    def expected(self, clip: str) -> str:
        """Where a clip that is missing would be: beside the others."""
        return Path(next(iter(self.clips.values()))).with_name(f"{clip}.wav").as_posix()


class _Reader:
    """Makes the utterances of the dialogues, and counts what is unusual."""

    def __init__(self, path: Path, facts: Mapping[str, Any], media: _Media) -> None:
        self._path, self._media = path, media
        self._labels: list[str] = facts["labels"]
        self._rate: int = facts["frames_per_second"]
        self._odd: dict[str, list[str]] = {}
        self._blended = 0
        self._clips_used: set[str] = set()
        self._videos_used: set[str] = set()

    def dialogue(self, series: str, dialogue: str, one: object, split: str) -> Iterator[Utterance]:
        """The utterances of a dialogue, in the order of the numbers at the end of their ids."""
        where = f"{self._path}, {dialogue}"
        content = _object(one, where)
        people = content.get("SpeakerInfo")
        said = list(_object(content.get("Dialog"), where, "Dialog").items())
        numbers = [_NUMBER.fullmatch(name.removeprefix(dialogue)) for name, _ in said]
        if all(numbers):
            said.sort(key=lambda item: int(item[0].rpartition("_")[2]))
        for position, (name, value) in enumerate(said):
            yield self._utterance(series, dialogue, position, name, value, people, split)

    def _utterance(
        self, series: str, dialogue: str, position: int, name: str, value: object, people: object, split: str
    ) -> Utterance:
        where = f"{self._path}, {name}"
        one = _object(value, where)
        annotation = _object(one.get("EmoAnnotation"), where, "EmoAnnotation")
        letter, text = (_text(one, field, where) for field in ("Speaker", "Text"))
        times = [self._time(one.get(field), name) for field in ("StartTime", "EndTime")]
        person = people.get(letter) if isinstance(people, dict) else None
        person = person if isinstance(person, dict) else {}
        label = self._emotion(annotation.get("final_main_emo"), f"{where}, final_main_emo")
        emotions = _names(annotation.get("final_mul_emo"))
        self._blended += len(emotions) > 1
        if label is None:
            self._odd.setdefault("without a final main emotion", []).append(name)
        extra: dict[str, object] = {"series": series, "speaker_letter": letter, "emotions": emotions}
        extra |= {field.lower(): given for field in ("Age", "Gender") if isinstance(given := person.get(field), str)}
        extra["votes"] = [_names(annotation.get(annotator)) for annotator in _ANNOTATORS]
        if None not in times:
            extra |= {"source_start": times[0], "source_end": times[1]}
        who = person.get("Name")
        speaker = f"{series}_{who.strip()}" if isinstance(who, str) and who.strip() else f"{dialogue}_{letter}"
        return Utterance(
            id=name,
            dialogue=dialogue,
            position=position,
            speaker=speaker,
            text=text.strip(),
            label=label,
            split=split,
            extra=extra,
            **self._where(dialogue, f"{letter}_{name}", name, times, where),
        )

    def _where(self, dialogue: str, clip: str, name: str, times: list[float | None], where: str) -> dict[str, Any]:
        """The fields of an utterance that locate its frames and audio."""
        media = self._media
        fields: dict[str, Any] = {}
        if not media.clips and not media.videos:
            return fields
        video = media.videos.get(dialogue)
        if video is not None and None not in times:
            self._videos_used.add(dialogue)
            fields = {"media": video, "start": times[0], "end": times[1]}
        else:
            reason = "no video of the dialogue" if video is None else "no time stamps in the annotation"
            fields = {"mask": {"visual": reason}}
        if clip in media.clips:
            self._clips_used.add(clip)
            fields["audio"] = media.clips[clip]
            return fields
        if media.clips:
            self._odd.setdefault("without an audio clip", []).append(name)
        if "media" not in fields and media.clips:
            if Path(clip).name != clip or "\\" in clip:
                raise UserError(f"{where}: {shown(clip)} is no name of a clip; is it M3ED's annotation?")
            fields["audio"] = media.expected(clip)
        elif "media" not in fields:
            fields["mask"]["audio"] = fields["mask"]["visual"]
        return fields

    def _time(self, value: object, name: str) -> float | None:
        time = parse_time(value, self._rate) if isinstance(value, str) else None
        if time is None:
            odd = self._odd.setdefault("with invalid time stamps", [])
            if name not in odd[-1:]:
                odd.append(name)
        return time

    def _emotion(self, value: object, where: str) -> str | None:
        if value is None or value == "":
            return None
        label = value.strip().lower() if isinstance(value, str) else None
        if label not in self._labels:
            raise UserError(f"{where}: unknown emotion {shown(value)}; must be one of {', '.join(self._labels)}")
        return label

    def notes(self, total: int) -> list[str]:
        """What was unusual, with counts and examples."""
        media = self._media
        notes = [f"{counted(len(names), 'utterance')} {what}: {some(names)}" for what, names in self._odd.items()]
        if self._blended:
            notes.append(
                f"{self._blended} of {counted(total, 'utterance')} have several emotions: the label is the main one, "
                "and all are in extra.emotions"
            )
        if not media.clips:
            notes.append("no audio clips found" + ("" if media.videos else ", nor videos: text only"))
        elif not media.videos:
            notes.append("no videos of the dialogues found: text and audio only")
        unused = Counter({"audio clip": len({*media.clips} - self._clips_used)})
        unused["video"] = len({*media.videos} - self._videos_used)
        return notes + [f"{counted(n, what)} of no utterance, left out" for what, n in unused.items() if n]


def _names(value: object) -> list[str]:
    """Emotions that are separated by commas, or in a list, in small letters."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else []
    return [part.strip().lower() for part in parts if isinstance(part, str) and part.strip()]


def _object(value: object, where: str, field: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UserError(f"{where}{', field ' if field else ''}{field}: must be an object; is it M3ED's annotation?")
    return value


def _text(one: Mapping[str, Any], field: str, where: str) -> str:
    value = one.get(field)
    if not isinstance(value, str) or (field == "Speaker" and not value):
        raise UserError(f"{where}, field {field}: must be a string; is it M3ED's annotation?")
    return value
