"""IEMOCAP as its release unpacks: five sessions, each with transcriptions, evaluations, sound and split-screen video."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from ... import manifests
from ...toolkit.base.errors import UserError, first_line
from ...toolkit.manifest import SPLITS, Manifest, Utterance
from .iemocap_files import DIALOGUE, Evaluation, Turn, parse_evaluation, parse_transcription, read_text

LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)


def read_iemocap(
    root: Path,
    *,
    label_set: Annotated[
        Literal["6way", "6way-official", "4way", "all"],
        "6way: the papers' 7,433 turns, 53 undecided ones among them; 6way-official: 7,380, without those; 4way: 5,531, "
        "excited joined to happy; all: every code that was agreed on",
    ] = "6way",
    label_map: Annotated[
        Path | None, "YAML file, the release's codes to label names, in index order; instead of a set"
    ] = None,
    split: Annotated[
        Literal["official", "session", "speaker"],
        "official: test on session 5; session or speaker: test on the one that --fold names",
    ] = "official",
    fold: Annotated[int | None, "Session 1 to 5, or speaker 1 to 10 (Ses01 F, Ses01 M, Ses02 F, …), to test on"] = None,
    split_file: Annotated[Path | None, "YAML or JSON file, dialogue to train, val or test; instead of a split"] = None,
    keep_unlabelled: Annotated[bool, "Keep turns without a label of the set, as context"] = False,
) -> Manifest:
    """Reads a release of IEMOCAP, or some of its sessions.

    Args:
        root: the folder of the release, with Session1 to Session5 in it, or the one above.

    The dialogues' order is the release's, the turns' that of the transcription, which is the community's (sorting by
    time stamps would change 57 of 151 dialogues). Speakers are "F" and "M"; `extra` has the actor. Sound comes from
    sentences/wav, else from the dialogue's own; the picture from the half of the AVI that shows the speaker: the left
    one shows who wears the markers, whose letter is the dialogue's.

    Splits other than "official" validate on the official validation dialogues that are not tested on. With "speaker"
    the test dialogues are the actor's session; the partner's turns stay in them as context, without a label.

    Raises:
        UserError: no release there, or options that cannot be.
    """
    facts = manifests.load("iemocap.yaml")
    codes = _label_map(label_map) if label_map else facts["label_sets"][label_set.removesuffix("-official")]
    labels = list(dict.fromkeys(codes.values()))
    place = _splitter(split, fold, split_file, facts)
    counted: Counter[str] = Counter()
    relabelled: list[str] = []
    utterances: list[Utterance] = []
    names: set[str] = set()
    for session in _sessions(Path(root)):
        for dialogue, path in _files(session / "dialog" / "transcriptions"):
            names.add(dialogue)
            turns, left_out = parse_transcription(read_text(path), dialogue)
            evaluation = session / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"
            found, also = parse_evaluation(read_text(evaluation), dialogue) if evaluation.is_file() else ({}, Counter())
            counted += left_out + also
            counted["dialogues without an evaluation file"] += not evaluation.is_file()
            counted["evaluations without a turn"] += len(found.keys() - {turn.id for turn in turns})
            counted["turns never evaluated"] += sum(turn.id not in found for turn in turns)
            media = _Media(Path(root), session, dialogue, facts)
            position = 0
            for turn in turns:
                judged = found.get(turn.id)
                label = None if judged is None else codes.get(judged.code)
                if judged is not None and not label_map and label_set == "6way" and _counts_as_happy(judged, facts):
                    label = "happy"
                    relabelled.append(turn.id)
                if label is None and not keep_unlabelled:
                    counted["turns without a label of the set"] += judged is not None
                    continue
                where, label = place(dialogue, turn, label)
                utterances.append(_utterance(turn, judged, dialogue, position, label, where, media))
                position += 1
            counted.update(media.missing)
    if not utterances:
        raise UserError(f"{root}: no labelled turn in it; is dialog/EmoEvaluation there?")
    notes = [f"{n} {what}" for what, n in counted.items() if n]
    if label_set == "6way" and not label_map:
        notes += _check_relabelled(relabelled, names, facts)
    return Manifest("iemocap", labels, Path(root), utterances, notes)


def _sessions(root: Path) -> list[Path]:
    """Session folders in root, or in a folder in root."""
    if not os.path.isdir(root):
        raise UserError(f"{root}: no such folder; give the one that IEMOCAP's release unpacks to")
    folders = [root, *sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))]
    for folder in folders:
        found = sorted(p for p in folder.iterdir() if re.fullmatch(r"Session[1-5]", p.name) and p.is_dir())
        if found:
            return found
    raise UserError(f"{root}: no folder Session1 to Session5 in it; give the one that IEMOCAP's release unpacks to")


def _files(folder: Path) -> list[tuple[str, Path]]:
    """Dialogue and file of each transcription, sorted; macOS's ._ files and whatever else lies there left out."""
    if not folder.is_dir():
        return []
    return sorted((p.stem, p) for p in folder.glob("*.txt") if DIALOGUE.fullmatch(p.stem) and p.is_file())


class _Media:
    """Where a dialogue is to be seen and heard, and what of it is missing."""

    def __init__(self, root: Path, session: Path, dialogue: str, facts: dict):
        self._root, self._dialogue = root, dialogue
        self._black = dialogue in facts["black_right_half"]
        video = session / "dialog" / "avi" / "DivX" / f"{dialogue}.avi"
        sound = session / "dialog" / "wav" / f"{dialogue}.wav"
        self._video = video if video.is_file() else None
        self._sound = sound if sound.is_file() else None
        self._sentences = session / "sentences" / "wav" / dialogue
        self._cut = set(os.listdir(self._sentences)) if self._sentences.is_dir() else set()
        self.missing: Counter[str] = Counter({"dialogues without a video": self._video is None})

    def of(self, turn: Turn) -> dict[str, object]:
        """The fields of an utterance that say where it is to be seen and heard."""
        shown_left = turn.speaker == DIALOGUE.fullmatch(self._dialogue)["markers"]
        fields: dict[str, object] = {"mask": {}, "region": LEFT if shown_left else RIGHT}
        if self._video is None:
            fields["mask"]["visual"] = "no video of the dialogue"
        else:
            fields |= {"media": self._relative(self._video), "start": turn.start, "end": turn.end}
            if self._black and not shown_left:
                fields["mask"]["visual"] = "black half: the release shows nobody there"
        if f"{turn.id}.wav" in self._cut:
            fields["audio"] = self._relative(self._sentences / f"{turn.id}.wav")
        else:
            self.missing["turns without a sentence's own sound"] += 1
            if self._sound is not None:
                fields |= {"audio": self._relative(self._sound), "audio_start": turn.start, "audio_end": turn.end}
        return fields

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()


def _utterance(
    turn: Turn, judged: Evaluation | None, dialogue: str, position: int, label: str | None, split: str, media: _Media
) -> Utterance:
    extra: dict[str, object] = {"actor": f"{dialogue[:5]}_{turn.speaker}"}
    if judged is not None:
        valence, activation, dominance = judged.ratings
        extra |= {
            "code": judged.code,
            "valence": valence,
            "activation": activation,
            "dominance": dominance,
            "votes": judged.votes,
            "rated": judged.rated,
        }
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


def _counts_as_happy(judged: Evaluation, facts: dict) -> bool:
    """The community's rule, documented nowhere: see `relabelled_happy` in manifests/iemocap.yaml."""
    return judged.code == facts["undecided"] and judged.most_named() == "Happiness"


def _check_relabelled(relabelled: list[str], dialogues: set[str], facts: dict) -> list[str]:
    """What the rule did, and where that is not what the published turns are."""
    known = {turn for turn in facts["relabelled_happy"] if turn.rpartition("_")[0] in dialogues}
    notes = [f"{len(relabelled)} undecided turns count as happy, as in the published features"] if relabelled else []
    if odd := sorted(set(relabelled) - known):
        notes.append(f"{len(odd)} of them are not among the published ones: {', '.join(odd[:5])}")
    if lacking := sorted(known - set(relabelled)):
        notes.append(f"{len(lacking)} published turns are not happy by this release's votes: {', '.join(lacking[:5])}")
    return notes


Placer = Callable[[str, Turn, str | None], tuple[str, str | None]]


def _splitter(split: str, fold: int | None, split_file: Path | None, facts: dict) -> Placer:
    """A function from dialogue, turn and label to the split and the label there."""
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
        raise UserError("--fold: the official split has no folds; say --split session or --split speaker")
    if most is not None and not (fold is not None and 1 <= fold <= most):
        raise UserError(f"--fold: --split {split} needs one from 1 to {most}")
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
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML or JSON ({first_line(error)})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: must map {what}")
    return found
