"""Texts and tables as programs write them: encodings, separators, headers; names that differ in case; numbers."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from erc_toolkit.extract.corpora.registry import read_corpus
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.base.reading.plain_json import MOST_DEPTH, parse_json, value_problem
from erc_toolkit.toolkit.base.reading.plain_numbers import finite, parse_clock, parse_number, shown
from erc_toolkit.toolkit.base.reading.plain_yaml import load_yaml
from erc_toolkit.toolkit.base.reading.same_names import SameNames
from erc_toolkit.toolkit.base.reading.texts import decode_text
from erc_toolkit.toolkit.manifest import Manifest, Utterance, load_manifest, manifest_from_rows, write_manifest
from erc_toolkit.train.scores.predictions import PREDICTIONS, read_predictions

TABLE = "id,dialogue,speaker,text,label\na,d,Zoë,“naïve”,joy\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_in_any_dialect_is_the_same_manifest(encoding, end, separator, tmp_path):
    text = TABLE.replace(",", separator).replace("\n", end)
    for prefix in ("", f"sep={separator}{end}"):
        (tmp_path / "m.csv").write_bytes((prefix + text).encode(encoding))
        (tmp_path / "t.csv").write_bytes((prefix + text).encode(encoding))
        for manifest in (load_manifest(tmp_path / "m.csv"), read_corpus("folder", tmp_path, table="t.csv")):
            assert manifest.utterances == [Utterance("a", "d", 0, "Zoë", "“naïve”", "joy", "train")]
            guessed = encoding in ("cp1252", "utf-16-le", "utf-16-be")
            assert any("1252" in note or "UTF-16" in note for note in manifest.notes) == guessed


@pytest.mark.parametrize(
    "data, text, fact",
    [
        ("é日本".encode(), "é日本", ""),
        ("日本,は\n1,2\n".encode("utf-16-le"), "日本,は\n1,2\n", "UTF-16"),
        (b"caf\xe9\nna\xc3\xafve\n\x93a\x94\n", "café\nnaïve\n“a”\n", "2 lines"),
        (b"a\0b", "a\0b", ""),
        (b"", "", ""),
    ],
)
def test_decoding(data, text, fact):
    found, note = decode_text(data, "folder/x.txt")
    assert found == text and fact in note and bool(note) == bool(fact) and "folder" not in note


@pytest.mark.parametrize(
    "data, where", [(b"a\nb\x81", "line 2"), (b"\xff\xfea", "UTF-16"), (b"\xff\xfe\0\xd8", "UTF-16")]
)
def test_what_is_no_text_is_refused(data, where):
    with pytest.raises(UserError, match="x.txt") as error:
        decode_text(data, "x.txt")
    assert where in error.value.message and "UTF-8" in error.value.message


def test_a_folder_table_without_a_header(tmp_path):
    (tmp_path / "t.csv").write_text("a.mp4;d;S;1,5;2,5\nb.mp4;d;T;3;4,25\n")
    with pytest.raises(UserError, match="--columns"):
        read_corpus("folder", tmp_path)
    manifest = read_corpus("folder", tmp_path, columns="file, dialogue,Speaker,start,end")
    assert [(u.id, u.speaker, u.start, u.end) for u in manifest.utterances] == [
        ("a", "S", 1.5, 2.5),
        ("b", "T", 3, 4.25),
    ]
    assert any("no header" in n for n in manifest.notes) and any(
        "3 numbers with a decimal" in n for n in manifest.notes
    )


def test_milliseconds_in_a_folder_table(tmp_path):
    (tmp_path / "t.csv").write_text("file,dialogue,speaker,start_ms,End_MS\na.mp4,d,S,1500,2500\n")
    manifest = read_corpus("folder", tmp_path)
    assert [(u.start, u.end) for u in manifest.utterances] == [(1.5, 2.5)] and "milliseconds" in manifest.notes[0]
    (tmp_path / "t.csv").write_text("file,dialogue,speaker,start,end\na.mp4,d,S,1500,0:02.5\n")
    assert [(u.start, u.end) for u in read_corpus("folder", tmp_path, time_unit="ms").utterances] == [(1.5, 2.5)]


@pytest.mark.parametrize("name", ["m.csv", "m.jsonl", "folder"])
def test_labels_and_splits_that_differ_in_case_are_one(name, tmp_path):
    rows = [("a", "Joy", "Train"), ("b", "joy", "train"), ("c", "joy", "TRAIN"), ("d", "anger", "Dev")]
    fields = [{"id": i, "dialogue": i, "speaker": "S", "label": label, "split": split} for i, label, split in rows]
    table = "\n".join([",".join(fields[0]), *(",".join(row.values()) for row in fields)])
    if name == "m.jsonl":
        (tmp_path / name).write_text("\n".join(map(json.dumps, fields)))
    else:
        (tmp_path / "m.csv").write_text(table)
    manifest = read_corpus("folder", tmp_path) if name == "folder" else load_manifest(tmp_path / name)
    assert manifest.labels == ["anger", "joy"]
    assert [(u.label, u.split) for u in manifest.utterances] == [("joy", "train")] * 3 + [("anger", "val")]
    for fact in ("1 label 'Joy' read as 'joy'", "1 split 'TRAIN' read as 'train'", "1 split 'Dev' read as 'dev'"):
        assert any(fact in note for note in manifest.notes), fact


def test_the_headers_spelling_of_labels_is_used(tmp_path):
    row = {"id": "a", "dialogue": "d", "speaker": "S", "label": "JOY "}
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, [{"erc_manifest": 1, "labels": ["sad", "Joy"]}, row])))
    manifest = load_manifest(tmp_path / "m.jsonl")
    assert manifest.utterances[0].label == "Joy" and manifest.labels == ["sad", "Joy"]
    (tmp_path / "m.jsonl").write_text(json.dumps({"erc_manifest": 1, "labels": ["joy", "Joy"]}))
    with pytest.raises(UserError, match="line 1, field labels: .*'joy', 'Joy'"):
        load_manifest(tmp_path / "m.jsonl")
    assert SameNames(["Straße"]).find("STRASSE") == "Straße" and SameNames(["e\u0301"]).find("É") == "e\u0301"
    assert SameNames(["a"]).find("b") is None


HUGE = "9" * 5000


@pytest.mark.parametrize(
    "line, where",
    [
        (f'{{"id": {HUGE}}}', "line 2, field id: "),
        (f'{{"id": "a", "dialogue": "d", "speaker": "S", "start": -{HUGE}}}', "line 2, field start: "),
        ('{"id": "a", "dialogue": "d", "speaker": "S", "start": 1e400}', "line 2, field start: "),
        ('{"id": "a", "dialogue": "d", "speaker": "S", "start": 1e300}', "line 2, field start: "),
        (
            f'{{"id": "a", "dialogue": "d", "speaker": "S", "extra": {{"v": [1, {HUGE}]}}}}',
            "line 2, field extra.v[1]: ",
        ),
        ('{"id": "a", "dialogue": "d", "speaker": "S", "extra": {"\\ud800": 1}}', "line 2, field extra."),
        ('{"id": "a", "dialogue": "d", "speaker": "S", "mask": {"audio": "\\u0000"}}', "line 2, field mask.audio: "),
        ('{"id": "a", "dialogue": "d", "speaker": "\\udcff", "text": "x"}', "line 2, field speaker: "),
        ('{"id": "a", "id": "b"}', "line 2, field id: "),
        ('{"id": "a", "extra": ' + '{"a":' * 200 + "1" + "}" * 201, "line 2, field "),
        (f'{{"erc_manifest": {HUGE}}}', "line 2, field erc_manifest: "),
    ],
)
def test_numbers_and_texts_that_cannot_be_stored_name_line_and_field(line, where, tmp_path):
    (tmp_path / "m.jsonl").write_text('{"id": "z", "dialogue": "z", "speaker": "S"}\n' + line)
    with pytest.raises(UserError) as error:
        load_manifest(tmp_path / "m.jsonl")
    message = error.value.message
    assert "m.jsonl" in message and where in message and "\n" not in message and len(message) < 400


@pytest.mark.parametrize(
    "field, value",
    [("notes", ["\ud800"]), ("notes", ["\0"]), ("labels", ["a\0"]), ("corpus", "\udfff"), ("root", "\0")],
)
def test_the_header_too(field, value, tmp_path):
    (tmp_path / "m.jsonl").write_text(json.dumps({"erc_manifest": 1, field: value}))
    with pytest.raises(UserError, match=f"line 1, field {field}"):
        load_manifest(tmp_path / "m.jsonl")


@pytest.mark.parametrize(
    "row, where",
    [
        (f"a,d,S,{HUGE},,", "line 2, field start: "),
        (f"a,d,S,,{HUGE},", "line 2, field position: "),
        ('a,d,S,,,"{""v"": ' + HUGE + '}"', "line 2, field extra: "),
        ("a,d,S\0,,,", "line 2, field 'speaker': contains a NUL"),
        ('a,d,S,,,"{""v"": ""\\ud800""}"', "line 2, field extra: "),
    ],
)
def test_tables_too(row, where, tmp_path):
    (tmp_path / "m.csv").write_text(f"id,dialogue,speaker,start,position,extra\n{row}\n")
    with pytest.raises(UserError) as error:
        load_manifest(tmp_path / "m.csv")
    assert where in error.value.message and "\n" not in error.value.message and len(error.value.message) < 400


def test_rows_of_a_readers_manifest_too(tmp_path):
    row = {"id": "a", "dialogue": "d", "speaker": "S"}
    for more, where in (
        ({"id": 10**5000}, "field id"),
        ({"start": 10**5000}, "field start"),
        ({"extra": {"x": 10**5000}}, "field extra.x"),
        ({"extra": {"x": ["\0"]}}, "field extra.x[0]"),
        ({"position": 10**5000}, "field position"),
    ):
        with pytest.raises(UserError, match="row 7, ") as error:
            manifest_from_rows("src", [(7, {**row, **more})], "c", None, tmp_path, unit="row")
        assert where in error.value.message and len(error.value.message) < 300


def test_what_a_program_puts_into_a_manifest_is_checked_when_it_is_written(tmp_path):
    for more, where in (
        ({"text": "a\0"}, "field text: contains a NUL"),
        ({"text": "\ud800"}, "field text: contains an unpaired"),
        ({"extra": {"x": 10**5000}}, "field extra.x: "),
    ):
        utterance = replace(Utterance("u7", "d", 0, "S", "", None, "train"), **more)
        with pytest.raises(UserError, match="m.jsonl, utterance 'u7', " + where):
            write_manifest(Manifest("c", [], tmp_path, [utterance]), tmp_path / "m.jsonl")


def test_json_and_yaml_of_any_size():
    assert parse_json('{"a": [1, 2.5, null, true, "é"], "b": {}}') == {"a": [1, 2.5, None, True, "é"], "b": {}}
    deep = "[" * (MOST_DEPTH - 1) + "]" * (MOST_DEPTH - 1)
    parse_json(deep)
    for text in (f"[[[{deep}]]]", "[" * 10**5, HUGE, "1e999", '{"a": 1, "a": 1}', '"\\ud800"', "\0", b"\xff"):
        with pytest.raises(ValueError) as error:
            parse_json(text)
        assert "\n" not in str(error.value) and len(str(error.value)) < 300
    for text in (HUGE, "a: [", "[" * 16_000, "{" * 16_000, '"\\ud800"', '"\\0"', "2001-99-99"):
        with pytest.raises(ValueError) as error:
            load_yaml(text)
        assert "\n" not in str(error.value) and len(str(error.value)) < 400
    loop = "&a [" + ", ".join(["*a"] * 50) + "]"  # YAML that contains itself: every object is looked at once
    assert len(load_yaml(loop)) == 50
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    assert "deep" in value_problem(nested, "x")
    while nested:  # freed step by step: Python's own way is recursive
        nested = nested.pop()


@pytest.mark.parametrize(
    "text, number",
    [("1", 1), ("1,5", 1.5), (" 1.5 ", 1.5), (".5", 0.5), ("-1e3", -1000), ("1,234.5", None), ("1_0", None)]
    + [(text, None) for text in ("", "nan", "inf", "1e999", HUGE, "1e", "٣", "0x1", "1,2,3", " " * 10**6)],
)
def test_numbers(text, number):
    assert parse_number(text) == number and finite(text) == number


@pytest.mark.parametrize(
    "text, seconds",
    [("1:02", 62), ("01:01:01,5", 3661.5), ("1.5s", 1.5), ("1500 ms", 1.5), ("PT1M2.5S", 62.5), ("PT", None)]
    + [(text, None) for text in ("1", "a:b", "1:2:3:4", f"{HUGE}:00", "s", ":" * 10**6)],
)
def test_clocks(text, seconds):
    assert parse_clock(text) == seconds


def test_shown_numbers_are_short():
    assert shown(10**5000) == "a int that is too large" and len(shown("x" * 10**6)) < 50 and shown("a") == "'a'"
    assert finite(10**5000) is None and finite(True) is None and finite(math.nan) is None


PREDICTED = "id,dialogue,position,speaker,true,predicted,predicted_text,p_joy,p_anger\na,d,0,S,joy,joy,,0.9,0.1\n"


def test_predictions_of_a_spreadsheet(tmp_path):
    for data in (PREDICTED.encode(), ("sep=;\r\n" + PREDICTED.replace(",", ";").replace(".", ",")).encode("utf-16")):
        (tmp_path / PREDICTIONS).write_bytes(data)
        found = read_predictions(tmp_path)
        assert found.labels == ["joy", "anger"] and found.probabilities.tolist() == [[0.9, 0.1]]
        assert found.own.tolist() == [[-1]] and found.position.tolist() == [0]


@pytest.mark.parametrize(
    "old, new",
    [
        (",0,S", f",{HUGE},S"),
        (",0,S", ",99999999999999999999,S"),
        ("0.9", "1e999"),
        ("0.9", HUGE),
        ("S,joy", "S\0,joy"),
        ("p_anger", "p_joy"),
    ],
)
def test_predictions_that_cannot_be_read(old, new, tmp_path):
    (tmp_path / PREDICTIONS).write_text(PREDICTED.replace(old, new))
    with pytest.raises(UserError, match=PREDICTIONS) as error:
        read_predictions(tmp_path)
    assert "\n" not in error.value.message and len(error.value.message) < 400
