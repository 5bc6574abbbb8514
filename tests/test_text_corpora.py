"""EmoryNLP and DailyDialog, text only: what the public layouts contain is what the manifest says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from erc_toolkit import manifests
from erc_toolkit.extract.corpora.dailydialog import split_dialogue
from erc_toolkit.extract.corpora.emorynlp import speaker_names
from erc_toolkit.extract.corpora.registry import read_corpus
from erc_toolkit.extract.stats import compare
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.manifest import Manifest, Utterance
from erc_toolkit.toolkit.store import FeatureStore

EMORY_HEADER = "Utterance,Speaker,Emotion,Scene_ID,Utterance_ID,Season,Episode,Start_Time,End_Time\n"
names = st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="\\"), min_size=1, max_size=12)


def mistake(corpus: str, root: Path) -> str:
    """The one line that a reader ends with."""
    with pytest.raises(UserError) as error:
        read_corpus(corpus, root)
    assert "\n" not in error.value.message
    return error.value.message


# -- EmoryNLP


def spoken(name: str, *who: str, emotion: str = "Neutral", text: str = "Hi.") -> dict:
    return {"utterance_id": name, "speakers": [*who], "transcript": text, "tokens": [[text]], "emotion": emotion}


def emory_json(root: Path, *scenes: tuple[str, list[dict]], split: str = "trn") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    content = [{"scene_id": scene, "utterances": said} for scene, said in scenes]
    episodes = [{"episode_id": "s01_e02", "scenes": content}]
    text = json.dumps({"season_id": split, "episodes": episodes}, ensure_ascii=False)
    (root / f"emotion-detection-{split}.json").write_text(text, encoding="utf-8")
    return root


def emory_table(root: Path, *rows: str, split: str = "train") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    times = "00:00:02.877,00:00:07.548"
    text = EMORY_HEADER + "".join(f"{row},{times}\n" for row in rows)
    (root / f"emorynlp_{split}_final.csv").write_text(text, encoding="utf-8")
    return root


def test_emorynlp_of_the_authors(tmp_path):
    first = [
        spoken("s01_e02_c01_u002", "Joey Tribbiani", emotion="Joyful", text=" Yeah, right! "),
        spoken("s01_e02_c01_u005", "Carol Willick", "Susan Bunch"),
        spoken("s01_e02_c01_u006", emotion="Mad", text=""),
    ]
    emory_json(tmp_path / "json", ("s01_e02_c01", first))
    emory_json(tmp_path / "json", ("s03_e01_c09", [spoken("s03_e01_c09_u001", "#ALL#")]), split="tst")
    manifest = read_corpus("emorynlp", tmp_path)
    assert [(u.id, u.dialogue, u.position, u.speaker, u.text, u.label, u.split) for u in manifest.utterances] == [
        ("s01_e02_c01_u002", "s01_e02_c01", 0, "Joey Tribbiani", "Yeah, right!", "joyful", "train"),
        ("s01_e02_c01_u005", "s01_e02_c01", 1, "Carol Willick and Susan Bunch", "Hi.", "neutral", "train"),
        ("s01_e02_c01_u006", "s01_e02_c01", 2, "unknown", "", "mad", "train"),
        ("s03_e01_c09_u001", "s03_e01_c09", 0, "#ALL#", "Hi.", "neutral", "test"),
    ]
    assert all(u.media is None and u.audio is None for u in manifest.utterances)
    assert manifest.utterances[0].extra == {"season": 1, "episode": 2} and len(manifest.labels) == 7
    assert manifest.utterances[1].extra["speakers"] == ["Carol Willick", "Susan Bunch"]
    assert any("emotion-detection-dev.json" in note and "val" in note for note in manifest.notes)
    assert any("1 utterance by several speakers" in note and "u005" in note for note in manifest.notes)


def test_emorynlp_tables(tmp_path):
    rows = ["\"Hi, you\",['Ross Geller'],Sad,1,1,1,2", 'So.,"[""Ross\'s Mom""]",Mad,12,3,4,10']
    rows += ["Bye.,\"['Bonnie', 'Rachel Green']\",Scared,1,4,1,2"]
    manifest = read_corpus("emorynlp", emory_table(tmp_path, *rows))
    assert [(u.id, u.position, u.speaker, u.text, u.label) for u in manifest.utterances] == [
        ("s01_e02_c01_u001", 0, "Ross Geller", "Hi, you", "sad"),
        ("s01_e02_c01_u004", 1, "Bonnie and Rachel Green", "Bye.", "scared"),
        ("s04_e10_c12_u003", 0, "Ross's Mom", "So.", "mad"),
    ]
    times = {"source_start": 2.877, "source_end": 7.548}
    assert manifest.utterances[2].extra == {"season": 4, "episode": 10, **times}
    assert manifest.utterances[1].extra["speakers"] == ["Bonnie", "Rachel Green"]


@given(st.lists(names, max_size=4))
def test_speakers_of_the_tables_are_read_as_python_prints_them(speakers):
    kept = [name for name in speakers if not {"'", '"'} <= set(name)]  # the only ones that repr would escape
    assert speaker_names(str(kept)) == kept


def test_speaker_cells_that_are_no_lists():
    assert speaker_names(" Ross ") == ["Ross"] and speaker_names("[Ross]") == ["Ross"] and speaker_names("[]") == []


@pytest.mark.parametrize(
    "row, facts",
    [
        ("Hi.,['A'],Sad,x,1,1,2", ["line 3: ", "Scene_ID"]),
        ("Hi.,['A'],Glad,1,2,1,2", ["line 3, Emotion", "'Glad'", "joyful"]),
        ("Hi.,['A'],Sad,1,1,1,2", ["line 3: ", "s01_e02_c01", "twice"]),
        ("Hi.,you,['A'],Sad,1,1,1,2", ["line 3: ", "more fields"]),
    ],
)
def test_mistakes_in_emorynlp_tables(tmp_path, row, facts):
    message = mistake("emorynlp", emory_table(tmp_path, "So.,['A'],Sad,1,1,1,2", row))
    assert all(fact in message for fact in ["emorynlp_train_final.csv", *facts])


@pytest.mark.parametrize(
    "text, facts",
    [
        ("{", ["not JSON"]),
        ("[]", ["field episodes"]),
        ('{"episodes": []}', ["no utterances"]),
        ('{"episodes": [{"scenes": {}}]}', ["episodes[0]", "field scenes"]),
        ('{"episodes": [{"scenes": [{"scene_id": "c", "utterances": [{}]}]}]}', ["utterances[0]", "utterance_id"]),
    ],
)
def test_mistakes_in_emorynlp_json(tmp_path, text, facts):
    (tmp_path / "emotion-detection-trn.json").write_text(text)
    message = mistake("emorynlp", tmp_path)
    assert all(fact in message for fact in ["emotion-detection-trn.json", *facts])


@pytest.mark.parametrize("field, value", [("emotion", "Glad"), ("emotion", None), ("speakers", [1]), ("transcript", 2)])
def test_utterances_of_emorynlp_that_cannot_be_read(tmp_path, field, value):
    one = spoken("s01_e02_c01_u002", "A") | {field: value}
    message = mistake("emorynlp", emory_json(tmp_path, ("s01_e02_c01", [one])))
    assert "emotion-detection-trn.json" in message and "s01_e02_c01_u002" in message


def test_both_forms_of_emorynlp_are_not_mixed(tmp_path):
    emory_json(tmp_path / "a", ("s01_e02_c01", [spoken("s01_e02_c01_u001", "A")]))
    emory_table(tmp_path / "b", "So.,['A'],Sad,1,1,1,2")
    message = mistake("emorynlp", tmp_path)
    assert "emotion-detection-trn.json" in message and "emorynlp_train_final.csv" in message
    assert len(read_corpus("emorynlp", tmp_path / "b").utterances) == 1


# -- DailyDialog


def daily(root: Path, texts: str, emotions: str, split: str = "train", nested: bool = False) -> Path:
    folder = root / split / split if nested else root
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"dialogues_{split}.txt").write_bytes(texts.encode())
    (folder / f"dialogues_emotion_{split}.txt").write_bytes(emotions.encode())
    return root


def test_dailydialog(tmp_path):
    texts = "Say , Jim , how about it ? __eou__ Fine . __eou__ Go ! __eou__\nI\u2028see . __eou__ Oh . __eou__ \r\n\n"
    daily(tmp_path, texts, "0 6 4 \n1 5\n", nested=True)
    daily(tmp_path, "Well . __eou__ So ?", "2 3", "validation")
    manifest = read_corpus("dailydialog", tmp_path)
    assert [(u.id, u.dialogue, u.position, u.speaker, u.text, u.label, u.split) for u in manifest.utterances] == [
        ("train_dia0_utt0", "train_dia0", 0, "A", "Say , Jim , how about it ?", "no emotion", "train"),
        ("train_dia0_utt1", "train_dia0", 1, "B", "Fine .", "surprise", "train"),
        ("train_dia0_utt2", "train_dia0", 2, "A", "Go !", "happiness", "train"),
        ("train_dia1_utt0", "train_dia1", 0, "A", "I\u2028see .", "anger", "train"),
        ("train_dia1_utt1", "train_dia1", 1, "B", "Oh .", "sadness", "train"),
        ("val_dia0_utt0", "val_dia0", 0, "A", "Well .", "disgust", "val"),
        ("val_dia0_utt1", "val_dia0", 1, "B", "So ?", "fear", "val"),
    ]
    assert [note for note in manifest.notes if "dialogues_test.txt" in note] and len(manifest.notes) == 1


def test_a_dialogue_with_other_emotions_than_utterances_is_kept_without_labels(tmp_path):
    daily(tmp_path, "a __eou__ b __eou__\nc __eou__\n", "0 0 0\n4\n")
    manifest = read_corpus("dailydialog", tmp_path)
    assert [u.label for u in manifest.utterances] == [None, None, "happiness"]
    assert any("1 dialogue with" in note and "line 1" in note for note in manifest.notes)


def test_empty_utterances_and_lines_keep_their_places(tmp_path):
    daily(tmp_path, "a __eou__  __eou__ c __eou__\n\nd __eou__\n", "0 4 0\n\n1\n")
    manifest = read_corpus("dailydialog", tmp_path)
    assert [(u.id, u.text, u.speaker) for u in manifest.utterances] == [
        ("train_dia0_utt0", "a", "A"),
        ("train_dia0_utt1", "", "B"),
        ("train_dia0_utt2", "c", "A"),
        ("train_dia2_utt0", "d", "A"),
    ]
    assert any("1 line without an utterance: line 2" in note for note in manifest.notes)


def test_dialogues_of_the_test_split_that_training_has_seen_are_counted(tmp_path):
    daily(tmp_path, "a __eou__\nb __eou__\n", "0\n0\n")
    daily(tmp_path, "b __eou__\nb __eou__\nc __eou__\n", "0\n1\n0\n", "test")
    assert any(n.startswith("test: 2 dialogues also") for n in read_corpus("dailydialog", tmp_path).notes)


@pytest.mark.parametrize(
    "texts, emotions, facts",
    [
        ("a __eou__\n", "0\n1\n", ["dialogues_emotion_train.txt", "2 lines", "dialogues_train.txt"]),
        ("a __eou__\nb __eou__\n", "0\n7\n", ["dialogues_emotion_train.txt, line 2", "'7'", "6 surprise"]),
        ("a __eou__\n", "joy\n", ["dialogues_emotion_train.txt, line 1", "'joy'"]),
        ("a __eou__\nb\0 __eou__\n", "0\n0\n", ["dialogues_train.txt, line 2", "NUL"]),
        ("", "", ["train.zip"]),
    ],
)
def test_mistakes_in_dailydialog(tmp_path, texts, emotions, facts):
    message = mistake("dailydialog", daily(tmp_path, texts, emotions))
    assert all(fact in message for fact in facts)


def test_dailydialog_without_emotions_or_splits(tmp_path):
    (tmp_path / "dialogues_text.txt").write_text("a __eou__\n")
    assert "dialogues_text.txt alone" in mistake("dailydialog", tmp_path)
    (tmp_path / "dialogues_train.txt").write_text("a __eou__\n")
    assert "dialogues_emotion_train.txt" in mistake("dailydialog", tmp_path)


@given(st.lists(st.text(st.characters(exclude_categories=("C", "Z"), exclude_characters="_"), min_size=1), max_size=5))
def test_utterances_of_a_line(said):
    line = "".join(f"{text} __eou__ " for text in said)
    assert split_dialogue(line, "__eou__") == said == split_dialogue(line.strip(), "__eou__")


# -- from files to a store


def test_extraction_of_texts(tmp_path, text_encoder, monkeypatch):
    """The commands of the manual, from another folder than the corpus's."""
    daily(tmp_path / "corpus", "Say , Jim ? __eou__ Fine . __eou__\nOh .  __eou__ __eou__\n", "0 4\n6 0\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    command = [
        "extract",
        "dailydialog",
        "../corpus",
        "--out",
        "d.h5",
        "--modalities",
        "text",
        "--text-model",
        text_encoder,
    ]
    result = CliRunner().invoke(main, [str(one) for one in command], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    with FeatureStore.open(Path("d.h5")) as store:
        assert store.corpus == "dailydialog" and list(store.column("speaker")) == [0, 1, 0, 1]
        (name,) = store.feature_names()
        assert list(store.feature(name).reasons()) == ["", "", "", "empty transcript"]


# -- published counts


def like(published: dict, corpus: str, leave_out: tuple[str, ...] = ()) -> Manifest:
    """A manifest with the published counts, without some of the splits."""
    utterances = []
    for split, counts in published["splits"].items():
        if split in leave_out:
            continue
        labels = [label for label, n in counts["labels"].items() for _ in range(n)]
        dialogues = counts.get("dialogues", 1)
        places = sorted(i % dialogues for i in range(len(labels)))
        position = 0
        for i, (label, place) in enumerate(zip(labels, places, strict=True)):
            position = position + 1 if i and places[i - 1] == place else 0
            utterances.append(Utterance(f"{split}{i}", f"{split}{place}", position, "A", "", label, split))
    return Manifest(corpus, published["labels"], Path(), utterances)


@pytest.mark.parametrize("which", [0, 1])
def test_the_release_that_agrees_best_is_compared(which):
    published = manifests.load("emorynlp.yaml")["published"][which]
    assert compare(like(published, "emorynlp")) == {"published": published["name"], "differences": []}
    part = compare(like(published, "emorynlp", ("train",)))
    assert part["published"] == published["name"] and all(d.startswith("train, ") for d in part["differences"])
