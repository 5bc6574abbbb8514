"""The manifest: valid ones round-trip, mistakes name line and field, and no input causes a traceback."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.manifest import Manifest, Utterance, load_manifest, write_manifest

ROW = {"id": "a", "dialogue": "d", "speaker": "S", "text": "hi"}


def write(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_smallest_manifest(tmp_path):
    manifest = load_manifest(
        write(tmp_path / "mine.jsonl", ROW, {**ROW, "id": "b", "label": "joy", "media": "x/b.mp4"})
    )
    assert manifest.corpus == "mine" and manifest.labels == ["joy"] and manifest.root == tmp_path / "."
    first, second = manifest.utterances
    assert first == Utterance("a", "d", 0, "S", "hi", None, "train")
    assert (second.position, second.media) == (1, "x/b.mp4") and manifest.path(second.media) == tmp_path / "x/b.mp4"


def test_csv(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(
        'id,dialogue,speaker,text,label,split,start,region\na,d,S,"one, two",joy,dev,1.5,0 0 0.5 1\nb,d,T,,,dev,,\n'
    )
    first, second = load_manifest(path).utterances
    assert (first.text, first.split, first.start, first.region) == ("one, two", "val", 1.5, (0, 0, 0.5, 1))
    assert (second.text, second.label, second.start) == ("", None, None)


@pytest.mark.parametrize(
    "rows, where, what",
    [
        ([{**ROW, "id": ""}], "line 1", "field id"),
        ([{"id": "a"}], "line 1", "field dialogue"),
        ([ROW, ROW], "line 2, field id", "line 1"),
        ([ROW, {**ROW, "id": "b", "dialogue": "e"}, {**ROW, "id": "c"}], "line 3", "field dialogue: 'd'"),
        ([ROW, {**ROW, "id": "b", "split": "test"}], "line 2", "field split: dialogue 'd'"),
        ([{**ROW, "split": "holdout"}], "line 1", "field split"),
        ([{**ROW, "position": 3}], "line 1", "field position"),
        ([{**ROW, "start": "soon"}], "line 1", "field start"),
        ([{**ROW, "end": float("nan")}], "line 1", "field end"),
        ([{**ROW, "media": "../../etc/passwd"}], "line 1", "field media"),
        ([{**ROW, "media": "/etc/passwd"}], "line 1", "field media"),
        ([{**ROW, "audio": "C:\\x.wav"}], "line 1", "field audio"),
        ([{**ROW, "region": [0.5, 0, 0.4, 1]}], "line 1", "field region"),
        ([{**ROW, "mask": {"smell": "none"}}], "line 1", "field mask"),
        ([{**ROW, "emotion": "joy"}], "line 1", "unknown field 'emotion'"),
        ([{"erc_manifest": 1, "labels": ["joy"]}, {**ROW, "label": "glee"}], "line 2", "field label"),
        ([{"erc_manifest": 2}, ROW], "", "schema 2"),
        ([{"erc_manifest": 1, "labels": "joy"}, ROW], "line 1", "field labels"),
        (["{not json", ROW], "line 1", "not JSON"),
        (["[1]"], "line 1", "object"),
        (["[" * 100000], "line 1", "not JSON"),
        ([], "", "utterance"),
    ],
)
def test_mistakes_name_line_and_field(tmp_path, rows, where, what):
    path = write(tmp_path / "m.jsonl", *rows)
    with pytest.raises(UserError) as error:
        load_manifest(path)
    message = error.value.message
    assert str(path) in message and where in message and what in message and "\n" not in message


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(UserError, match=r"none\.jsonl: "):
        load_manifest(tmp_path / "none.jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe{}\0")
    with pytest.raises(UserError, match=r"bytes\.jsonl: .*UTF-8"):
        load_manifest(tmp_path / "bytes.jsonl")


text = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
name = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=8)
seconds = st.none() | st.floats(0, 1e6)


@st.composite
def manifests(draw):
    # Names that differ in case only are one label.
    labels = draw(st.lists(name, min_size=1, max_size=4, unique_by=lambda n: " ".join(n.split()).casefold()))
    utterances = []
    for d in range(draw(st.integers(1, 4))):
        split = draw(st.sampled_from(["train", "val", "test"]))
        for i in range(draw(st.integers(1, 4))):
            mask = draw(st.dictionaries(st.sampled_from(["text", "audio", "visual"]), name, max_size=2))
            utterances.append(
                Utterance(
                    f"{d}_{i}",
                    f"d{d}",
                    i,
                    draw(name),
                    draw(text),
                    draw(st.none() | st.sampled_from(labels)),
                    split,
                    media=draw(st.none() | st.just("a/b.mp4")),
                    start=draw(seconds),
                    end=draw(seconds),
                    region=draw(st.none() | st.just((0.0, 0.1, 0.5, 1.0))),
                    mask=mask,
                    extra=draw(st.just({}) | st.just({"val": 2.5})),
                )
            )
    return labels, utterances


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(manifests())
def test_what_is_written_is_read(tmp_path, made):
    labels, utterances = made
    write_manifest(Manifest("c", labels, tmp_path, utterances), tmp_path / "m.jsonl")
    back = load_manifest(tmp_path / "m.jsonl")
    assert (back.corpus, back.labels, back.utterances) == ("c", labels, utterances)
    assert back.root.resolve() == tmp_path.resolve()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda x: st.lists(x, max_size=3),
    max_leaves=4,
)
fields = st.sampled_from(
    ["id", "dialogue", "position", "speaker", "text", "label", "split", "media", "start", "region", "mask"]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(
    st.binary(max_size=40)
    | st.dictionaries(fields, json_values, max_size=6).map(lambda d: json.dumps(d | {"id": "x"}).encode())
)
def test_no_input_causes_a_traceback(tmp_path, data):
    (tmp_path / "m.jsonl").write_bytes(data)
    (tmp_path / "m.csv").write_bytes(b"id,dialogue,speaker,start\n" + data)
    for path in (tmp_path / "m.jsonl", tmp_path / "m.csv"):
        try:
            load_manifest(path)
        except UserError:
            pass
