"""IEMOCAP's raw layout: line formats, defects, splits, and the counts of a synthetic full-size release."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from file_support import looks_at_files
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_toolkit import manifests
from erc_toolkit.extract.corpora.iemocap import LEFT, RIGHT, read_iemocap
from erc_toolkit.extract.corpora.iemocap_files import DIALOGUE, parse_evaluation, parse_transcription
from erc_toolkit.toolkit.base.errors import UserError

FACTS = manifests.load("iemocap.yaml")
SIX = FACTS["label_sets"]["6way"]


def block(turn: str, code: str, votes=("C-E2:\tNeutral;\t()",), start=1.0, end=2.0) -> str:
    lines = [
        f"[{start:.4f} - {end:.4f}]\t{turn}\t{code}\t[2.5000, 3.0000, 3.5000]",
        *votes,
        "A-E3:\tval 3; act 2; dom  2;\t()",
    ]
    return "\n".join(lines) + "\n\n"


def make(root, dialogue, turns, *, lines=(), wavs=True, avi=True, newline="\n", encoding="utf-8"):
    """Writes one dialogue: turns are (id, code or None, votes…); lines are further lines of the transcription."""
    session = root / f"Session{dialogue[4]}"
    text = [f"{t[0]} [{k:03d}.0000-{k + 1:03d}.5000]: Turn {k}: it says so." for k, t in enumerate(turns)] + list(lines)
    evaluation = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n" + "".join(
        block(t[0], t[1], *t[2:3]) for t in sorted(turns, key=lambda t: t[0]) if t[1] is not None
    )
    for folder, content in (("transcriptions", "\n".join(text) + "\n"), ("EmoEvaluation", evaluation)):
        (session / "dialog" / folder).mkdir(parents=True, exist_ok=True)
        (session / "dialog" / folder / f"{dialogue}.txt").write_bytes(content.replace("\n", newline).encode(encoding))
    if wavs:
        folder = session / "sentences" / "wav" / dialogue
        folder.mkdir(parents=True, exist_ok=True)
        for turn in turns:
            (folder / f"{turn[0]}.wav").touch()
    if avi:
        (session / "dialog" / "avi" / "DivX").mkdir(parents=True, exist_ok=True)
        (session / "dialog" / "avi" / "DivX" / f"{dialogue}.avi").touch()
    return root


def test_order_labels_halves_and_sound(tmp_path):
    make(
        tmp_path,
        "Ses01M_impro01",
        [("Ses01M_impro01_M000", "ang"), ("Ses01M_impro01_F000", "exc"), ("Ses01M_impro01_M001", "neu")],
    )
    manifest = read_iemocap(tmp_path)
    first, second, third = manifest.utterances
    assert [u.id for u in manifest.utterances] == ["Ses01M_impro01_M000", "Ses01M_impro01_F000", "Ses01M_impro01_M001"]
    assert manifest.labels == ["happy", "sad", "neutral", "angry", "excited", "frustrated"]
    assert (first.label, second.label, third.position) == ("angry", "excited", 2)
    assert first.region == LEFT and second.region == RIGHT  # the dialogue's letter wears the markers, on the left
    assert (second.start, second.end) == (1.0, 2.5) and first.text == "Turn 0: it says so."
    assert first.audio == "Session1/sentences/wav/Ses01M_impro01/Ses01M_impro01_M000.wav" and first.audio_start is None
    assert first.media == "Session1/dialog/avi/DivX/Ses01M_impro01.avi"
    assert first.extra["actor"] == "Ses01_M" and first.extra["votes"] == {"C-E2": ["Neutral"]}
    assert (first.extra["valence"], first.extra["activation"], first.extra["dominance"]) == (2.5, 3.0, 3.5)


def test_the_release_may_be_in_a_subfolder(tmp_path):
    make(tmp_path / "IEMOCAP_full_release", "Ses02F_impro01", [("Ses02F_impro01_F000", "sad")])
    assert (
        read_iemocap(tmp_path).utterances[0].media == "IEMOCAP_full_release/Session2/dialog/avi/DivX/Ses02F_impro01.avi"
    )


def test_lines_that_are_not_turns_are_counted(tmp_path):
    odd = [
        "M: Yeah, well.",
        "F:",
        "Ses01F_impro01_M099: no time stamp",
        "Ses01F_impro01_FXX0 [007.5-007.7]: [BREATHING]",
        "Ses01F_impro02_F000 [001.0-002.0]: elsewhere",
        "Ses01F_impro01_F000 [009.0-010.0]: again",
        "~~~",
        "   ",
    ]
    make(
        tmp_path,
        "Ses01F_impro01",
        [
            ("Ses01F_impro01_F000", "sad"),
            ("Ses01F_impro01_F001", None),
            ("Ses01F_impro01_F002", "xxx"),
            ("Ses01F_impro01_F003", "sur"),
        ],
        lines=odd,
    )
    (tmp_path / "Session1/dialog/transcriptions/._Ses01F_impro01.txt").write_bytes(b"\0\5\x16\7")
    manifest = read_iemocap(tmp_path)
    assert [u.id for u in manifest.utterances] == ["Ses01F_impro01_F000"]
    for start in (
        "2 lines with M: or F:",
        "1 line without a time stamp",
        "1 XX turn ",
        "1 turn of another dialogue",
        "1 duplicate turn ",
        "1 transcription line ",
        "1 turn never evaluated",
        "2 turns without a label",
    ):
        assert any(note.startswith(start) for note in manifest.notes), (start, manifest.notes)
    kept = read_iemocap(tmp_path, keep_unlabelled=True)
    assert [u.label for u in kept.utterances] == ["sad", None, None, None]
    assert [u.label for u in read_iemocap(tmp_path, label_set="all").utterances] == ["sad", "surprised"]


def test_windows_line_ends_and_other_encodings(tmp_path):
    make(
        tmp_path,
        "Ses01F_impro01",
        [("Ses01F_impro01_F000", "sad", ("C-E2:\tSadness;\t(déçu)",))],
        newline="\r\n",
        encoding="latin-1",
    )
    (utterance,) = read_iemocap(tmp_path).utterances
    assert utterance.label == "sad" and utterance.extra["votes"] == {"C-E2": ["Sadness"]}


def test_missing_audio_and_video(tmp_path):
    make(tmp_path, "Ses01F_impro01", [("Ses01F_impro01_F000", "sad")], wavs=False, avi=False)
    wav = tmp_path / "Session1/dialog/wav/Ses01F_impro01.wav"
    wav.parent.mkdir()
    wav.touch()
    (utterance,) = read_iemocap(tmp_path).utterances
    assert utterance.media is None and utterance.mask == {"visual": "no video of the dialogue"}
    assert (utterance.audio, utterance.audio_start, utterance.audio_end) == (
        "Session1/dialog/wav/Ses01F_impro01.wav",
        0.0,
        1.5,
    )
    wav.unlink()
    assert read_iemocap(tmp_path).utterances[0].audio is None


def test_names_are_compared_in_full(tmp_path):
    make(tmp_path, "Ses05M_script01_1", [("Ses05M_script01_1_F000", "sad")])
    make(tmp_path, "Ses05M_script01_1b", [("Ses05M_script01_1b_F000", "ang"), ("Ses05M_script01_1b_M000", "neu")])
    dialogues = {name: [u.id for u in us] for name, us in read_iemocap(tmp_path).dialogues()}
    assert dialogues == {
        "Ses05M_script01_1": ["Ses05M_script01_1_F000"],
        "Ses05M_script01_1b": ["Ses05M_script01_1b_F000", "Ses05M_script01_1b_M000"],
    }


def test_the_black_half_is_masked(tmp_path):
    make(tmp_path, "Ses05F_script02_1", [("Ses05F_script02_1_F000", "sad"), ("Ses05F_script02_1_M000", "ang")])
    woman, man = read_iemocap(tmp_path).utterances
    assert woman.mask == {} and man.mask == {"visual": "black half: the release shows nobody there"}


VOTES = {
    "happy twice alone": (("C-E1:\tHappiness;\t()", "C-E2:\tHappiness;\t()", "C-E3:\tExcited;\t()"), True),
    "with the actor's own": (
        ("C-E1:\tHappiness;\t()", "C-E2:\tHappiness; Excited;\t()", "C-E3:\tExcited;\t()", "C-M1:\tHappiness;\t()"),
        True,
    ),
    "a draw": (("C-E1:\tHappiness;\t()", "C-E2:\tExcited;\t()"), False),
    "only beside others": (("C-E1:\tHappiness; Excited;\t()", "C-E2:\tHappiness; Neutral;\t()"), False),
    "another leads": (("C-E1:\tHappiness;\t()", "C-E2:\tExcited;\t()", "C-E3:\tExcited;\t()"), False),
    "nobody": ((), False),
}


@pytest.mark.parametrize("name", VOTES)
def test_turns_without_agreement_that_are_labelled_happy(tmp_path, name):
    votes, happy = VOTES[name]
    make(tmp_path, "Ses01F_impro03", [("Ses01F_impro03_F007", "xxx", votes), ("Ses01F_impro03_M000", "neu", votes)])
    found = {u.id: u.label for u in read_iemocap(tmp_path).utterances}
    assert (
        found.get("Ses01F_impro03_F007") == ("happy" if happy else None) and found["Ses01F_impro03_M000"] == "neutral"
    )
    for other in ("6way-official", "4way", "all"):
        assert "Ses01F_impro03_F007" not in {u.id for u in read_iemocap(tmp_path, label_set=other).utterances}


def test_invalid_options(tmp_path):
    make(tmp_path, "Ses01F_impro01", [("Ses01F_impro01_F000", "sad")])
    (tmp_path / "map.yaml").write_text("sad: blue\n")
    assert read_iemocap(tmp_path, label_map=tmp_path / "map.yaml").utterances[0].label == "blue"
    (tmp_path / "split.yaml").write_text("Ses01F_impro01: dev\n")
    assert read_iemocap(tmp_path, split_file=tmp_path / "split.yaml").utterances[0].split == "val"
    (tmp_path / "bad.yaml").write_text("- x\n")
    for options, fact in [
        ({"fold": 1}, "--fold: .*--split session"),
        ({"split": "session"}, "--fold: --split session .*1 to 5"),
        ({"split": "speaker", "fold": 11}, "--fold: --split speaker .*1 to 10"),
        ({"label_map": tmp_path / "bad.yaml"}, "bad.yaml"),
        ({"split_file": tmp_path / "none.yaml"}, "none.yaml"),
    ]:
        with pytest.raises(UserError, match=fact):
            read_iemocap(tmp_path, **options)
    for folder in (tmp_path / "none", tmp_path / "Session1"):
        with pytest.raises(UserError, match=f"{folder}: .*IEMOCAP"):
            read_iemocap(folder)


@pytest.fixture(scope="module")
def full_release(tmp_path_factory):
    """All 151 dialogues with their published numbers of turns and labels, in a release that has only text files."""
    root = tmp_path_factory.mktemp("full") / "IEMOCAP_full_release"
    six, four = (p["dialogues"] for p in FACTS["published"])
    happy = Counter(turn.rpartition("_")[0] for turn in FACTS["relabelled_happy"])
    codes_left = {split: Counter(p["labels"]) for split, p in FACTS["published"][0]["splits"].items()}
    agreed = ("C-E1:\tHappiness;\t()", "C-E2:\tHappiness;\t()", "C-E3:\tExcited;\t()")
    split_votes = ("C-E1:\tAnger;\t()", "C-E2:\tSadness;\t()", "C-E3:\tFrustration;\t()")
    for dialogue, n in FACTS["turns"].items():
        split = "test" if dialogue[4] == "5" else "val" if dialogue in FACTS["validation"] else "train"
        known = [turn for turn in FACTS["relabelled_happy"] if turn.rpartition("_")[0] == dialogue]
        ids = known + [i for k in range(n) for s in "FM" if (i := f"{dialogue}_{s}{k:03d}") not in known]
        ids = ids[:n]
        # "Frustrated" is missing from the four classes; the other labels are chosen by what the split still needs.
        frustrated = six[dialogue] - happy[dialogue] - four[dialogue]
        plan = ["fru"] * frustrated
        codes_left[split]["frustrated"] -= frustrated
        codes_left[split]["happy"] -= happy[dialogue]
        for _ in range(four[dialogue]):
            name = max((c for c in codes_left[split] if c != "frustrated"), key=codes_left[split].get)
            codes_left[split][name] -= 1
            plan.append(next(code for code, label in SIX.items() if label == name))
        turns = [(i, "xxx", agreed) for i in known]
        rest = ids[len(known) :]
        turns += [(i, code) for i, code in zip(rest, plan, strict=False)]  # there may be more turns than labels
        turns += [(i, "xxx", split_votes) for i in rest[len(plan) :]]
        make(root, dialogue, turns, wavs=False, avi=False)
    return root


def test_full_release_gives_the_published_counts(full_release):
    with looks_at_files(full_release) as looks:
        manifest = read_iemocap(full_release)
    # Every text file is opened once and every folder listed once or twice, however many turns there are.
    folders, texts = 1, 0
    for _, inside, files in os.walk(full_release):
        folders, texts = folders + len(inside), texts + sum(name.endswith(".txt") for name in files)
    assert looks["open"] <= texts + 20 and looks["list"] <= 2 * folders + 20, looks
    assert len(manifest.utterances) == 7433 and len(list(manifest.dialogues())) == 151
    from erc_toolkit.extract.stats import compare

    assert compare(manifest) == {"published": "IEMOCAP, 6way", "differences": []}
    assert any(note.startswith("53 turns without agreement labelled happy") for note in manifest.notes)
    assert not any("not among the published" in note or "not happy" in note for note in manifest.notes)
    counts = Counter(u.split for u in manifest.utterances)
    assert counts["train"] + counts["val"] == 5810 and counts["test"] == 1623
    assert len(read_iemocap(full_release, label_set="6way-official").utterances) == 7380
    four = read_iemocap(full_release, label_set="4way")
    assert len(four.utterances) == 5531 and compare(four)["differences"] == []


@pytest.mark.slow
def test_folds(full_release):
    seen = Counter()
    for fold in range(1, 6):
        manifest = read_iemocap(full_release, split="session", fold=fold)
        tested = {u.dialogue[:5] for u in manifest.utterances if u.split == "test"}
        assert tested == {f"Ses0{fold}"} and {u.split for u in manifest.utterances} == {"train", "val", "test"}
        seen.update(u.id for u in manifest.utterances if u.split == "test")
    assert set(seen.values()) == {1} and len(seen) == 7433
    seen = Counter()
    for fold in range(1, 11):
        labelled = [
            u
            for u in read_iemocap(full_release, split="speaker", fold=fold).utterances
            if u.split == "test" and u.label
        ]
        assert len({u.extra["actor"] for u in labelled}) == 1
        seen.update(u.id for u in labelled)
    assert set(seen.values()) == {1} and len(seen) == 7433


def test_iemocap_mini(shared):
    manifest = read_iemocap(shared / "corpora" / "iemocap-mini")
    ids = {u.id: u for u in manifest.utterances}
    assert Counter(u.dialogue for u in manifest.utterances) == {
        "Ses01F_impro01": 9,
        "Ses02M_script01_1": 8,
        "Ses05F_impro02": 8,
    }
    assert ids["Ses01F_impro01_F003"].label == "happy" and "Ses02M_script01_1_F003" not in ids  # undecided in both
    assert "Ses01F_impro01_M003" not in ids and ids["Ses01F_impro01_M000"].region == RIGHT
    assert ids["Ses02M_script01_1_M000"].region == LEFT and ids["Ses05F_impro02_F000"].split == "test"
    assert (ids["Ses01F_impro01_F000"].start, ids["Ses01F_impro01_F000"].end) == (1.0, 2.76)
    assert any("not among the published" in note and "Ses01F_impro01_F003" in note for note in manifest.notes)
    assert len(read_iemocap(shared / "corpora" / "iemocap-mini", label_set="all").utterances) == 27


# Line formats: no input causes a traceback, and accepted lines round-trip.

names = st.sampled_from(sorted(FACTS["turns"]))
seconds = st.decimals(0, 999, places=4)
words = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), max_size=30)


@settings(max_examples=200, deadline=None)
@given(names, st.sampled_from("FM"), st.integers(0, 999), seconds, seconds, words)
def test_a_turn_round_trips(dialogue, speaker, number, start, end, text):
    turn = f"{dialogue}_{speaker}{number:03d}"
    (found,), left_out = parse_transcription(f"{turn} [{start}-{end}]: {text}\n", dialogue)
    assert (found.id, found.speaker, found.start, found.end) == (turn, speaker, float(start), float(end))
    assert found.text == text.strip() and not left_out and DIALOGUE.fullmatch(dialogue)


category = st.sampled_from(["Anger", "Happiness", "Excited", "Neutral", "Other"])


@settings(max_examples=200, deadline=None)
@given(
    names,
    st.lists(st.lists(category, max_size=3), max_size=4),
    st.sampled_from(["xxx", "hap", "neu"]),
    seconds,
    seconds,
)
def test_an_evaluation_round_trips(dialogue, votes, code, start, end):
    turn = f"{dialogue}_F000"
    lines = tuple(f"C-E{k}:\t{' '.join(f'{name};' for name in named)}\t(a comment)" for k, named in enumerate(votes))
    found, left_out = parse_evaluation(block(turn, code, lines, float(start), float(end)), dialogue)
    assert found[turn].code == code and found[turn].votes == {f"C-E{k}": named for k, named in enumerate(votes)}
    assert found[turn].ratings == (2.5, 3.0, 3.5) and not left_out


pieces = st.sampled_from(
    [
        "Ses01F_impro01",
        "_F000",
        "_MXX1",
        " [",
        "1.5",
        "-",
        "]:",
        "[1.0 - 2.0]\t",
        "\txxx\t",
        "[1, 2, 3]",
        "C-E1:\t",
        "Happiness; ",
        "(",
        ")",
        "\n",
        "\r",
        "\0",
        "\x85",
        "%",
        "M:",
        "é",
    ]
)


@settings(max_examples=1500, deadline=None)
@given(st.lists(pieces | st.text(max_size=4), max_size=25).map("".join))
def test_no_text_causes_a_traceback(text):
    turns, _ = parse_transcription(text, "Ses01F_impro01")
    found, _ = parse_evaluation(text, "Ses01F_impro01")
    assert all(t.id.startswith("Ses01F_impro01_") for t in turns)
    for evaluation in found.values():
        evaluation.most_named()
