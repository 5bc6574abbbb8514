"""IEMOCAP as released: five sessions, each with transcriptions, evaluations, audio and split-screen video."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from ... import manifests
from ...toolkit.base.errors import UserError
from ...toolkit.base.reading.plain_yaml import load_yaml
from ...toolkit.base.reading.texts import read_text
from ...toolkit.base.words import counted
from ...toolkit.manifest import SPLITS, Manifest, Utterance
from .iemocap_files import DIALOGUE, Evaluation, Turn, parse_evaluation, parse_transcription

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


def read_iemocap(
    root: Path,
    *,
    label_set: Annotated[
        Literal["6way", "6way-official", "4way", "all"],
        "6way: the 7,433 turns used in papers, including 53 without agreement; 6way-official: 7,380, without those; "
        "4way: 5,531, excited merged into happy; all: every code agreed on",
    ] = "6way",
    label_map: Annotated[
        Path | None, "YAML file that maps the release's codes to label names, in index order; replaces --label-set"
    ] = None,
    split: Annotated[
        Literal["official", "session", "speaker"],
        "official: test on session 5; session or speaker: test on the one given with --fold",
    ] = "official",
    fold: Annotated[int | None, "Session 1 to 5, or speaker 1 to 10 (Ses01 F, Ses01 M, Ses02 F, …), to test on"] = None,
    split_file: Annotated[
        Path | None, "YAML or JSON file that maps dialogues to train, val or test; replaces --split"
    ] = None,
    keep_unlabelled: Annotated[bool, "Keep turns without a label in the label set, as context"] = False,
) -> Manifest:
    """Reads a release of IEMOCAP, or some of its sessions.

    Args:
        root: the folder of the release, which contains Session1 to Session5, or its parent.

    Dialogues are in the order of the release, turns in the order of the transcription, as is usual in the literature
    (sorting by time stamps would change 57 of 151 dialogues). Speakers are "F" and "M"; `extra` has the actor. Audio
    comes from sentences/wav, or else from the dialogue's WAV file; frames come from the half of the AVI that shows the
    speaker: the left half shows the actor who wears the markers, whose letter is in the dialogue's name.

    Splits other than "official" validate on those official validation dialogues that are not in the test split. With
    "speaker" the test dialogues are the actor's session; the partner's turns stay in them as context, without a label.

    Raises:
        UserError: no release at `root`, or invalid options.
    """
    facts = manifests.load("iemocap.yaml")
    codes = _label_map(label_map) if label_map else facts["label_sets"][label_set.removesuffix("-official")]
    labels = list(dict.fromkeys(codes.values()))
    place = _splitter(split, fold, split_file, facts)
    left_out: Counter[tuple[str, str]] = Counter()
    relabelled: list[str] = []
    utterances: list[Utterance] = []
    names: set[str] = set()
    notes: list[str] = []
    sessions = _sessions(Path(root))
    if sessions[0].parent != Path(root):
        notes.append(f"found {', '.join(session.name for session in sessions)} in {sessions[0].parent}")
    for session in sessions:
        for dialogue, path in _files(session / "dialog" / "transcriptions"):
            names.add(dialogue)
            turns, skipped_lines = parse_transcription(_text(path, notes), dialogue)
            evaluation = session / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"
            rated = _text(evaluation, notes) if evaluation.is_file() else ""
            found, also = parse_evaluation(rated, dialogue)
            left_out += skipped_lines + also
            left_out["dialogue", "without an evaluation file"] += not evaluation.is_file()
            left_out["evaluation", "without a turn"] += len(found.keys() - {turn.id for turn in turns})
            left_out["turn", "never evaluated"] += sum(turn.id not in found for turn in turns)
            media = _Media(Path(root), session, dialogue, facts)
            position = 0
            for turn in turns:
                rating = found.get(turn.id)
                label = None if rating is None else codes.get(rating.code)
                if rating is not None and not label_map and label_set == "6way" and _counts_as_happy(rating, facts):
                    label = "happy"
                    relabelled.append(turn.id)
                if label is None and not keep_unlabelled:
                    left_out["turn", "without a label in the label set"] += rating is not None
                    continue
                where, label = place(dialogue, turn, label)
                utterances.append(_utterance(turn, rating, dialogue, position, label, where, media))
                position += 1
            left_out.update(media.missing)
    if not utterances:
        raise UserError(f"{root}: contains no labelled turns; is dialog/EmoEvaluation there?")
    notes += [f"{counted(n, noun)} {what}" for (noun, what), n in left_out.items() if n]
    if label_set == "6way" and not label_map:
        notes += _check_relabelled(relabelled, names, facts)
    return Manifest("iemocap", labels, Path(root), utterances, notes)


def _text(path: Path, notes: list[str]) -> str:
    """The text of a file of the release; what was assumed about its encoding becomes a note."""
    text, note = read_text(path, "file")
    notes += [note] if note else []
    return text


def _sessions(root: Path) -> list[Path]:
    """Session folders in root, or in a subfolder of root."""
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such folder; give the unpacked folder of the IEMOCAP release")
    folders = [root, *sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))]
    for folder in folders:
        found = sorted(p for p in folder.iterdir() if re.fullmatch(r"Session[1-5]", p.name) and p.is_dir())
        if found:
            return found
    raise UserError(
        f"{root}: contains none of the folders Session1 to Session5; give the unpacked folder of the IEMOCAP release"
    )


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Dialogue and file of each transcription, sorted; macOS's ._ files and any others are left out."""
    if not folder.is_dir():
        return []
    return sorted((p.stem, p) for p in folder.glob("*.txt") if DIALOGUE.fullmatch(p.stem) and p.is_file())


class _Media:
    """The video and audio files of a dialogue, and counts of what is missing."""

    def __init__(self, root: Path, session: Path, dialogue: str, facts: dict):
        self._root, self._dialogue = root, dialogue
        self._black = dialogue in facts["black_right_half"]
        video = session / "dialog" / "avi" / "DivX" / f"{dialogue}.avi"
        audio = session / "dialog" / "wav" / f"{dialogue}.wav"
        self._video = video if video.is_file() else None
        self._audio = audio if audio.is_file() else None
        self._sentences = session / "sentences" / "wav" / dialogue
        self._cut = set(os.listdir(self._sentences)) if self._sentences.is_dir() else set()
        self.missing: Counter[tuple[str, str]] = Counter({("dialogue", "without a video"): self._video is None})

    def of(self, turn: Turn) -> dict[str, Any]:
        """The fields of an utterance that locate its frames and audio."""
        shown_left = turn.speaker == DIALOGUE.fullmatch(self._dialogue)["markers"]
        fields: dict[str, Any] = {"mask": {}, "region": LEFT if shown_left else RIGHT}
        if self._video is None:
            fields["mask"]["visual"] = "no video of the dialogue"
        else:
            fields |= {"media": self._relative(self._video), "start": turn.start, "end": turn.end}
            if self._black and not shown_left:
                fields["mask"]["visual"] = "black half: the release shows nobody there"
        if self.has_sentence(turn):
            fields["audio"] = self._relative(self._sentences / f"{turn.id}.wav")
        else:
            self.missing["turn", "without its own audio file"] += 1
            if self._audio is not None:
                fields |= {"audio": self._relative(self._audio), "audio_start": turn.start, "audio_end": turn.end}
        return fields

    def has_sentence(self, turn: Turn) -> bool:
        """Whether the turn has an audio file of its own."""
        return f"{turn.id}.wav" in self._cut

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def _utterance(
    turn: Turn, rating: Evaluation | None, dialogue: str, position: int, label: str | None, split: str, media: _Media
) -> Utterance:
    extra: dict[str, object] = {"actor": f"{dialogue[:5]}_{turn.speaker}"}
    if rating is not None:
        valence, activation, dominance = rating.ratings
        extra |= {
            "code": rating.code,
            "valence": valence,
            "activation": activation,
            "dominance": dominance,
            "votes": rating.votes,
            "rated": rating.rated,
        }
    if media.has_sentence(turn):
        extra["audio_lasts"] = round(turn.end - turn.start, 4)
    return Utterance(
        id=turn.id,
        dialogue=dialogue,
        position=position,
        speaker=turn.speaker,
        text=turn.text,
        label=label,
        split=split,
        extra=extra,
        **media.of(turn),
    )


def _counts_as_happy(rating: Evaluation, facts: dict) -> bool:
    """The undocumented rule behind the field's features: see `relabelled_happy` in manifests/iemocap.yaml."""
    return rating.code == facts["undecided"] and rating.most_named() == "Happiness"


def _check_relabelled(relabelled: list[str], dialogues: set[str], facts: dict) -> list[str]:
    """Notes on the turns that the rule relabelled, and on differences from the published ones."""
    known = {turn for turn in facts["relabelled_happy"] if turn.rpartition("_")[0] in dialogues}
    notes = []
    if relabelled:
        turns = counted(len(relabelled), "turn")
        notes.append(f"{turns} without agreement labelled happy, as in the published features")
    if extra := sorted(set(relabelled) - known):
        notes.append(f"{len(extra)} of these not among the published ones: {', '.join(extra[:5])}")
    if missing := sorted(known - set(relabelled)):
        turns = counted(len(missing), "published turn")
        notes.append(f"{turns} not happy by the votes in this release: {', '.join(missing[:5])}")
    return notes


Placer = Callable[[str, Turn, str | None], tuple[str, str | None]]


def _splitter(split: str, fold: int | None, split_file: Path | None, facts: dict) -> Placer:
    """A function from (dialogue, turn, label) to (split, label in that split)."""
    if split_file is not None:
        table = _mapping(split_file, "dialogues to train, val or test")

        def by_file(dialogue: str, turn: Turn, label: str | None) -> tuple[str, str | None]:
            where = {"dev": "val", "valid": "val"}.get(table.get(dialogue), table.get(dialogue))
            if where not in SPLITS:
                raise UserError(
                    f"{split_file}: {dialogue} is {table.get(dialogue)!r}; must be one of {', '.join(SPLITS)}"
                )
            return where, label

        return by_file
    most = {"official": None, "session": 5, "speaker": 10}[split]
    if most is None and fold is not None:
        raise UserError("--fold: the official split has no folds; use --split session or --split speaker")
    if most is not None and not (fold is not None and 1 <= fold <= most):
        raise UserError(f"--fold: --split {split} needs a fold from 1 to {most}")
    session = facts["test_session"] if most is None else fold if split == "session" else (fold + 1) // 2
    actor = ("F" if fold % 2 else "M") if split == "speaker" else None

    def place(dialogue: str, turn: Turn, label: str | None) -> tuple[str, str | None]:
        if int(dialogue[4]) == session:
            return "test", label if actor in (None, turn.speaker) else None
        return ("val" if dialogue in facts["validation"] else "train"), label

    return place


def _label_map(path: Path) -> dict[str, str]:
    codes = _mapping(path, "the release's codes to label names")
    if not codes or not all(isinstance(v, str) and v and isinstance(k, str) for k, v in codes.items()):
        raise UserError(f"{path}: must map the release's codes to label names, e.g. `ang: angry`")
    return codes


def _mapping(path: Path, what: str) -> dict:
    text, _ = read_text(Path(path), "file", windows=False)
    try:
        found = load_yaml(text)
    except ValueError as error:
        raise UserError(f"{path}: cannot be read as YAML or JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: must map {what}")
    return found
