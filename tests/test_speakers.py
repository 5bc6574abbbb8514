"""Who speaks: the forms of recognisers, meeting tools and captions, and what only looks like them."""

from __future__ import annotations

import time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from erc_toolkit.extract.corpora.registry import read_corpus
from erc_toolkit.extract.recording import read_recording
from erc_toolkit.extract.transcripts.cues import Cue
from erc_toolkit.extract.transcripts.speakers import split_speakers
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.predict.turns import Turn, subrip, webvtt


def cues(*texts: str) -> list[Cue]:
    return [Cue(i, i + 1, "", text) for i, text in enumerate(texts)]


def said(*texts: str, allowed: list[str] | None = None) -> list[tuple[str, str]]:
    return [(turn.speaker, turn.text) for turn in split_speakers(cues(*texts), allowed).turns]


def notes(*texts: str, allowed: list[str] | None = None) -> str:
    return "\n".join(split_speakers(cues(*texts), allowed).notes)


# form, and the two names in it
FORMS = [
    ("[{}]: {}", "SPEAKER_00", "SPEAKER_01"),  # WhisperX
    ("[{}] {}", "SPEAKER_00", "SPEAKER_01"),
    ("{}: {}", "SPEAKER_00", "SPEAKER_01"),
    ("{} {}", "SPEAKER_00", "SPEAKER_01"),
    ("{}|{}", "SPEAKER_00", "SPEAKER_01"),  # Whisper-WebUI
    ("{}: {}", "Speaker 1", "Speaker 2"),  # whisper-diarization, Otter, Rev
    ("{}: {}", "SPEAKER 1", "SPEAKER 2"),
    ("{}: {}", "Speaker A", "Speaker B"),  # AssemblyAI
    ("{}: {}", "spk_0", "spk_1"),  # Amazon
    ("{}: {}", "Guest-1", "Guest-2"),  # Azure
    ("({}) {}", "speaker 0", "speaker 1"),  # whisper.cpp
    ("{}: {}", "Participant 12", "iPhone"),  # Zoom
    ("{}: {}", "John's iPhone", "Galaxy S21"),
    ("{}:\n{}", "Speaker 1", "Speaker 2"),
    ("{} (00:01):\n{}", "Ann Smith", "Bob Jones"),  # Rev
    ("{}  0:03\n{}", "Ann Smith", "Bob"),  # Otter
    ("[00:00:01] {}: {}", "Ann", "Bob"),  # Descript
    ("{}\n{}", "Speaker 1", "Speaker 2"),  # Premiere
    ("{}: {}", "Ann", "Bob"),
    ("{} : {}", "Ann", "Bob"),
    ("{}: {}", "ann", "bob"),
    ("{}: {}", "ANN", "MAN #2"),
    ("{}:{}", "ANN", "BOB"),
    ("{}: {}", "Dr. Smith", "J. R. Ewing"),
    ("{}: {}", "Anna-Lena de la Cruz", "O’Neil"),
    ("{}: {}", "Анна", "Борис"),
    ("{}：{}", "安娜", "小明"),
    ("{}: {}", "أحمد", "سارة"),
    ("【{}】{}", "安娜", "小明"),
    ("[{}] {}", "ANN", "BOB"),
    ("({}) {}", "Ann", "Bob"),
    ("[{}]\n{}", "ANN", "BOB"),
    (">> {}: {}", "ANN", "BOB"),  # broadcast
    (">>{}: {}", "Ann", "Bob Lee"),
    (">>> {}: {}", "ANN", "BOB"),
    ("- {}: {}", "Ann", "Bob"),
    ("{}: {}", "Smith, Ann", "Jones, Bob"),
    ("{}: {}", "Ann Smith - ACME", "Bob - Guest"),
    ("[{}]\n{}", "speaker:0", "speaker:1"),  # Deepgram
    ("<{}> {}", "Ann", "Bob"),
    ("≫{}：{}", "花子", "太郎"),
    ("（{}）{}", "花子", "太郎"),
    ("\u200f{}: {}", "Ann", "Bob"),
    ("\u202b{}\u202c: {}", "Ann", "Bob"),
    ("\ufeff\u200b{}: {}", "Ann", "Bob"),
]


@pytest.mark.parametrize("form, first, second", FORMS)
@pytest.mark.parametrize("named", [False, True])
def test_two_speakers_in_each_form(form, first, second, named):
    """Also if each speaks once, and with their names given."""
    allowed = [first, second] if named else None
    if not (named and form in ("{}\n{}", "{} {}")):  # a given name needs a delimiter
        wanted = [(first, "Hello there."), (second, "Yes, hi.")]
        assert said(*(form.format(*one) for one in wanted), allowed=allowed) == wanted
    long = [(first, "Hello."), (second, "Yes, hi."), (first, "Well."), (second, "No?")] * 3
    if not (named and form in ("{}\n{}", "{} {}")):
        assert said(*(form.format(*one) for one in long), allowed=allowed) == long
        assert notes(*(form.format(*one) for one in long), allowed=allowed).startswith(
            f"2 speakers: {first} 6, {second} 6"
        )


@pytest.mark.parametrize(
    "text",
    [
        "Remember: the door is open.", "Note: He left.", "Listen: I know.", "PS: Thanks.", "Step 1: Wash it.", "12:30",
        "Rule number one: No talking.", "http://example.org: down", "Meet me at 12:30.", "[laughter]", "[MUSIC] Hello.",
        "(laughs) You did?", "(Sighs) You did?", "[inaudible] you", "[DOOR OPENS] Who is it?", "[IN FRENCH] Oui.",
        "♪ La la ♪", "So this is what I mean: nothing.", "Breaking: the news", "Achtung: Feuer!", "注意：火",
        "He said: no.", "Here is the thing: I lied.", "Re:Zero", "Hm... Well: no", "C:\\temp",
    ],
)  # fmt: skip
def test_what_only_looks_like_a_name(text):
    dialogue = ["Ann: One.", "Bob: Two.", "Ann: Three.", "Bob: Four.", "Ann: Five.", "Bob: Six."]
    assert ("", text) in said(*dialogue, text) and len(split_speakers(cues(*dialogue, text)).counts) == 3
    assert said("How are you?", text, "Fine, thanks.", "Good.")[1] == ("", text)


def test_a_name_that_occurs_once():
    """Among unnamed cues it is left in the text and reported; it counts if others of the form recur or all have it."""
    texts = ["Hello.", "How are you?", "Carl: Fine.", "Good.", "Yes."]
    assert said(*texts)[2] == ("", "Carl: Fine.")
    assert '"Carl:" 1' in notes(*texts) and "--speakers" in notes(*texts) and "no speaker" in notes(*texts)
    assert said("Ann: Hi.", "Bob: Hello.", "Ann: Good.")[1] == ("Bob", "Hello.")
    meeting = ["Ann Lee: Hi.", "Bob: Hello.", "Ann Lee: Good.", "Bob: So.", "Carl Jones: Thanks."]
    assert said(*meeting)[4] == ("Carl Jones", "Thanks.")
    assert said("ANN: Hi there.", "BOB: Hello.", "ANN: Good.", "BOB: So.", "Well then.", "CARL: Yes.")[5] == (
        "CARL",
        "Yes.",
    )


def test_several_utterances_in_one_cue():
    assert said(">> ANN: Hello. >> BOB: Hi.") == [("ANN", "Hello."), ("BOB", "Hi.")]
    assert said(">> Hello. >> Hi.\n>> No.") == [("", "Hello."), ("", "Hi."), ("", "No.")]
    assert said("- Hi\n- Hello") == [("", "Hi"), ("", "Hello")]
    assert said("- Hi. - Hello.", "–Yes?\n–No.") == [("", "Hi."), ("", "Hello."), ("", "Yes?"), ("", "No.")]
    assert said("- Ann: Hi\n- Hello", "Ann: So.", "Ann: Well.")[:2] == [("Ann", "Hi"), ("", "Hello")]
    assert said("Who is it?\n- Me.") == [("", "Who is it?"), ("", "Me.")]
    assert said("[SPEAKER_00]: Hi. [SPEAKER_01]: Yes. [SPEAKER_00]: No.") == [
        ("SPEAKER_00", "Hi."), ("SPEAKER_01", "Yes."), ("SPEAKER_00", "No."),
    ]  # fmt: skip
    assert said("Speaker 1: Hi. Speaker 2: Yes.") == [("Speaker 1", "Hi."), ("Speaker 2", "Yes.")]
    assert said("ANN: Hi there. BOB: Yes.", "ANN: No.") == [("ANN", "Hi there."), ("BOB", "Yes."), ("ANN", "No.")]
    assert said("Ann: one\ntwo\nBob: three", "Ann: x", "Bob: y")[:2] == [("Ann", "one two"), ("Bob", "three")]
    assert said("Yes. [SPEAKER_TURN] No.") == [("", "Yes."), ("", "No.")]


def test_what_is_no_dialogue():
    for text in ("— who?", "- Hi", "well -- no", "-5 degrees\n-10 degrees", "I was\n—no", "5 >> 3"):
        assert said(text) == [("", " ".join(text.split()))]


def test_broadcast_captions_go_on_until_the_next_change():
    texts = [">> ANN: Hello.", "and welcome.", ">> Hi.", "again", ">> BOB: So."]
    assert [who for who, _ in said(*texts)] == ["ANN", "ANN", "", "", "BOB"]
    assert "1 cue" in notes(*texts)


def test_remarks_beside_names_are_reported():
    assert said("ANN (V.O.): Hi.", "BOB [whispering]: No.", "[Ann, laughing] Yes.") == [
        ("Ann", "Hi."), ("BOB", "No."), ("Ann", "Yes."),
    ]  # fmt: skip
    found = notes("ANN (V.O.): Hi.", "BOB [whispering]: No.", "ANN: Yes.", "BOB:")
    assert "(V.O.) 1" in found and "(whispering) 1" in found and "1 name without words" in found


def test_names_in_two_spellings_are_one():
    split = split_speakers(cues("Ann: Hi.", "BOB: No.", "Bob: Yes.", "Ann: So."))
    assert dict(split.counts) == {"Ann": 2, "Bob": 2} and any("BOB 1, Bob 1" in note for note in split.notes)


def test_given_names_are_literal():
    texts = [
        "Remember: no",
        "[ANN] Hi.",
        ">> bob: Yes.",
        "- Ann (V.O.): Well.\n- Hm.",
        "Anna: no",
        "Ann, come.",
        "ANN - So.",
    ]
    allowed = ["Ann", "Bob", "Q: the 3rd", "Dee"]
    assert said(*texts, "Q: the 3rd: Mine.", allowed=allowed) == [
        ("", "Remember: no"), ("Ann", "Hi."), ("Bob", "Yes."), ("Ann", "Well."), ("", "Hm."), ("", "Anna: no"),
        ("", "Ann, come."), ("Ann", "So."), ("Q: the 3rd", "Mine."),
    ]  # fmt: skip
    assert "never found: Dee" in notes(*texts, "Q: the 3rd: Mine.", allowed=allowed)
    # Two names that differ only in case are two; a third spelling is neither.
    assert said("Al: a", "AL: b", "al: c", allowed=["Al", "AL"]) == [("Al", "a"), ("AL", "b"), ("", "al: c")]
    # Programs' names are not given, so they are text.
    assert said("[SPEAKER_00]: Hi.", allowed=["Ann"]) == [("", "[SPEAKER_00]: Hi.")]
    # What is no name otherwise is one if the user says so.
    allowed = ["Note", "laughs", "the man in the hat"]
    assert said("Note: Hi.", "(laughs) No.", "the man in the hat: Yes.", allowed=allowed) == [
        ("Note", "Hi."), ("laughs", "No."), ("the man in the hat", "Yes."),
    ]  # fmt: skip


def test_declared_speakers():
    """Of a voice, an event or a column: taken as they are, and not repeated in the text."""
    rows = [("Ann", "ANN: Hi."), ("Ann", "- One\n- two"), ("unknown", "Bob: x"), ("Bob", "y")]
    turns = [Cue(i, i + 1, *row) for i, row in enumerate(rows)]
    split = split_speakers(turns)
    assert [(t.speaker, t.text) for t in split.turns] == [
        ("Ann", "Hi."),
        ("Ann", "- One - two"),
        ("Bob", "x"),
        ("Bob", "y"),
    ]
    split = split_speakers(turns, ["ann", "Cy"])
    assert split.turns[0].speaker == "ann" and any("never found: Cy" in note for note in split.notes)
    assert any("not among --speakers: Bob 1" in note for note in split.notes)


def test_unknown_speakers_are_unknown():
    assert said("[UNKNOWN]: Hi.", "[SPEAKER_00]: No.", "[UNKNOWN]: So.") == [
        ("", "Hi."),
        ("SPEAKER_00", "No."),
        ("", "So."),
    ]


def test_capitals_throughout():
    """Where all is in capitals, capitals say nothing."""
    texts = ["ANN: HELLO THERE.", "BOB: HI.", "WHO IS IT?", "FIRE: RUN!", "ANN: ME.", "BOB: OH.", "YES."]
    assert said(*texts)[3] == ("", "FIRE: RUN!") and said(*texts)[4] == ("ANN", "ME.")


def test_a_folder_decides_together(tmp_path):
    """A name that occurs once in each of two files recurs."""
    cue = "00:00:0{0},000 --> 00:00:0{0},900\n{1}\n\n"
    for name, other in (("a", "Hello."), ("b", "How are you?")):
        texts = [other, "Ann: Fine.", "Really?", "Yes."]
        (tmp_path / f"{name}.srt").write_text("".join(cue.format(i, text) for i, text in enumerate(texts)))
    manifest = read_corpus("subtitles", tmp_path)
    assert [u.speaker for u in manifest.utterances] == ["unknown", "Ann", "unknown", "unknown"] * 2
    assert "1 speaker: Ann 2" in "\n".join(manifest.notes) and "a.srt: 1 speaker: Ann 1" in manifest.notes
    manifest = read_corpus("subtitles", tmp_path, speakers="Bob")
    assert {u.speaker for u in manifest.utterances} == {"unknown"}
    assert "--speakers: never found: Bob" in manifest.notes


def test_a_recording_reports_its_speakers(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\n>> ANN: Hello. >> BOB: Hi.\n")
    manifest = read_recording(tmp_path / "a.mp4", tmp_path / "a.vtt", ["joy"])
    assert [(u.speaker, u.text, u.start) for u in manifest.utterances] == [("ANN", "Hello.", 1), ("BOB", "Hi.", 1)]
    assert any(note.startswith("a.vtt: 2 speakers: ANN 1, BOB 1") for note in manifest.notes)
    (tmp_path / "a.vtt").write_text("WEBVTT\n\n00:01.000 --> 00:02.000\n<i></i>\n")
    with pytest.raises(UserError, match=r"a\.vtt"):
        read_recording(tmp_path / "a.mp4", tmp_path / "a.vtt", ["joy"])


def test_texts_of_a_table_name_speakers_where_no_column_does(tmp_path):
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.csv").write_text(
        "start,end,text\n0,1.5,[SPEAKER_00]: Hi.\n2,3.5,- Who?\n4,5.5,\n5,6.5,>> ANN: Me.\n"
    )
    manifest = read_recording(tmp_path / "a.mp4", tmp_path / "a.csv", ["joy"])
    assert [(u.start, u.speaker, u.text) for u in manifest.utterances] == [
        (0, "SPEAKER_00", "Hi."), (2, "unknown", "- Who?"), (4, "unknown", ""), (5, "ANN", "Me."),
    ]  # fmt: skip
    assert any(note.startswith("a.csv: 2 speakers: ") for note in manifest.notes)
    (tmp_path / "a.csv").write_text("start,end,speaker,text\n0,1.5,Ann,[SPEAKER_00]: Hi.\n2,3.5,,Bob: Who?\n")
    manifest = read_recording(tmp_path / "a.mp4", tmp_path / "a.csv", ["joy"])
    assert [u.text for u in manifest.utterances] == ["[SPEAKER_00]: Hi.", "Bob: Who?"]


def test_predicted_subtitles_are_read_without_the_emotions():
    """A prediction in the text would be read by the next model."""
    from erc_toolkit.extract.transcripts.subtitles.files import parse_subtitles

    turns = [
        Turn(str(i), who, text, i, i + 1, "joy", 0.834, {"joy": 1.0}, {"text": None}, {})
        for i, (who, text) in enumerate([("Ann", "Hi, you."), ("Bob Lee", "No.")])
    ]
    assert [(t.speaker, t.text) for t in parse_subtitles(subrip(turns))] == [("Ann", "Hi, you."), ("Bob Lee", "No.")]
    assert [t.speaker for t in parse_subtitles(webvtt(turns))] == ["Ann", "Bob Lee"]


def test_many_names_take_linear_time():
    """Quadratic time would be minutes; the bound is far above what a busy machine needs for linear time."""
    texts = [f"Ann{i}: Hi, {i}. BOB{i}: No. [{i} CY] So." for i in range(3_000)]
    for transcript in (cues(*texts), cues(" ".join(texts))):
        began = time.process_time()
        split_speakers(transcript)
        assert time.process_time() - began < 10


names = st.sampled_from(
    ["Ann", "Bob Ray", "DR. NO", "Émile", "O’Neil", "King of Spain", "安娜", "Анна", "Speaker 1", "iPhone"]
)
words = st.lists(
    st.sampled_from("Yes no maybe. Why? it's (not) 7 [so] here; then, 12:30 Well!".split()), min_size=1, max_size=6
)
forms = st.sampled_from(
    ["{}: {}", "[{}]: {}", ">> {}: {}", "{}| {}", "- {}: {}", "{} (off): {}", "\u200f{}：{}", "{}:\n{}"]
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(names, words.map(" ".join)), min_size=1, max_size=6), forms)
def test_turns_written_in_any_form_are_read_back(turns, form):
    """Written twice, so that each name recurs; nothing but the names is lost."""
    # A line of a few words and a time, again and again, is a name with its time, as Otter writes it.
    assume(form != "{}:\n{}" or not any(text.endswith("12:30") for _, text in turns))
    written = [form.format(*turn) for turn in turns] * 2
    assert said(*written) == turns * 2
    assert said("\n".join(written)) == merged(turns * 2, form)
    assert said(*written, allowed=sorted({who for who, _ in turns})) == turns * 2


def merged(turns: list[tuple[str, str]], form: str) -> list[tuple[str, str]]:
    """In one cue, neighbouring lines of the same speaker are one turn, except where >> or a dash begins a new one."""
    found: list[tuple[str, str]] = []
    for who, text in turns:
        if found and found[-1][0] == who and not form.startswith((">>", "-")):
            found[-1] = who, f"{found[-1][1]} {text}"
        else:
            found.append((who, text))
    return found


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=30), max_size=5))
def test_no_letter_is_lost_silently(texts):
    """Every letter of the cues is in a text, in a speaker's name, or in a note."""
    split = split_speakers(cues(*texts))
    kept = "".join(f"{t.speaker}{t.text}" for t in split.turns).casefold() + "\n".join(split.notes).casefold()
    assert not {c for text in texts for c in text.casefold() if c.isalpha()} - set(kept)
