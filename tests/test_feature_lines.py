"""`--feature KIND[:MODEL][@KEY=VALUE,…]` and `--features FILE`: what a line means, and what is wrong with it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from test_extractor_packages import site  # noqa: F401 (a fixture)

from erc_toolkit.extract.encoders.kinds import KINDS, FeatureRequest, parse_feature, requests_of
from erc_toolkit.extract.encoders.registry import EXTRACTORS, find_extractor
from erc_toolkit.extract.encoders.selection import (
    AUDIO_POOLINGS,
    POOLINGS,
    PRECISIONS,
    RUNTIMES,
    Options,
    built_in_extractor,
)
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.manifest import Manifest, Utterance, write_manifest

DEFAULTS = {field.name: getattr(Options(), field.name) for field in dataclasses.fields(Options)}


def changed(options: Options) -> dict[str, object]:
    """The options that are not the defaults."""
    found = {name: getattr(options, name) for name in DEFAULTS}
    return {name: value for name, value in found.items() if value != DEFAULTS[name]}


def refused(line: object, options: Options | None = None) -> str:
    with pytest.raises(UserError) as error:
        parse_feature(line, options or Options())
    assert "\n" not in error.value.message
    return error.value.message


TEXT, AUDIO, VISUAL = ({"modalities": (m,)} for m in ("text", "audio", "visual"))
IMAGE, VIDEO = ({**VISUAL, "visual_kind": kind} for kind in ("image", "video"))
MEANS = [
    ("text", TEXT),
    ("text:org/name", {**TEXT, "text_model": "org/name"}),
    (
        "text:M@pooling=cls,context=2,prompt=emotion,describe=prosody,output=probs,device_map=true,name=n,"
        "precision=bfloat16",
        {
            **TEXT,
            "text_model": "M",
            "pooling": "cls",
            "text_context": 2,
            "text_prompt": "emotion",
            "describe": "prosody",
            "output": "probs",
            "device_map": True,
            "name": "n",
            "precision": "bfloat16",
        },
    ),
    ("opensmile", AUDIO),
    ("opensmile:IS10@name=ten", {**AUDIO, "audio_set": "IS10", "name": "ten"}),
    ("prosody", {**AUDIO, "audio_set": "prosody"}),
    (
        "speech:M@layers=6-12,pooling=mean+std,output=probs",
        {**AUDIO, "audio_model": "M", "layers": "6-12", "audio_pooling": "mean+std", "output": "probs"},
    ),
    ("face", VISUAL),
    ("face@weights=random", {**VISUAL, "visual_weights": "random"}),
    (
        "face:denseface@normalisation=129,63.58",
        {**VISUAL, "visual_model": "denseface", "normalisation": "129,63.58"},
    ),
    (
        "face:denseface@normalisation=129, 63.58,weights=random",
        {**VISUAL, "visual_model": "denseface", "normalisation": "129,63.58", "visual_weights": "random"},
    ),
    ("image:vit@crop=frame", {**IMAGE, "visual_model": "vit", "crop": "frame"}),
    ("video:org/m@precision=float16", {**VIDEO, "visual_model": "org/m", "precision": "float16"}),
    # Paths with "@", ":", "=" and commas.
    ("text:/a@b/c:d", {**TEXT, "text_model": "/a@b/c:d"}),
    ("text:/a@b/c:d@pooling=last", {**TEXT, "text_model": "/a@b/c:d", "pooling": "last"}),
    ("text:/a@b/lr=1,x/m@pooling=last", {**TEXT, "text_model": "/a@b/lr=1,x/m", "pooling": "last"}),
    ("text:/lr=1@seed=2/m@pooling=last", {**TEXT, "text_model": "/lr=1@seed=2/m", "pooling": "last"}),
    ("face@weights=/a@b/c,d/w.pt", {**VISUAL, "visual_weights": "/a@b/c,d/w.pt"}),
    ("text:M@prompt=/p=1.txt", {**TEXT, "text_model": "M", "text_prompt": "/p=1.txt"}),
    ("text:M @ pooling = cls , name = n", {**TEXT, "text_model": "M ", "pooling": "cls", "name": "n"}),
]


@pytest.mark.parametrize(("line", "means"), MEANS, ids=[line for line, _ in MEANS])
def test_a_line_is_options(line, means):
    found = parse_feature(line, Options())
    assert changed(found.options) == means and found.line == line and found.named and not found.implicit
    assert found.modality == found.options.modalities[0]


def test_every_kind_makes_its_extractor():
    """Every built-in extractor has a kind, and the example of a kind is one of it."""
    assert sorted(kind.extractor for kind in KINDS.values()) == sorted(EXTRACTORS)
    for kind in KINDS.values():
        found = parse_feature(f"{kind.name}:{kind.example}" if kind.example else kind.name, Options())
        assert built_in_extractor(found.options, kind.modality) == kind.extractor
        assert find_extractor(kind.extractor).cls.modality == found.modality == kind.modality
        assert set(kind.keys.values()) <= set(DEFAULTS) and kind.licence and kind.needs and kind.about


def test_the_runs_own_options_are_what_a_line_does_not_say():
    run = Options(pooling="last", fps=2.0, precision="float16", audio_track=3, features=("prosody",))
    assert parse_feature("text:M", run).options.pooling == "last"
    assert parse_feature("text:M@pooling=cls", run).options.pooling == "cls"
    found = parse_feature("image:M@precision=float32", run).options
    assert (found.fps, found.precision, found.audio_track) == (2.0, "float32", 3)
    assert all(not one.options.features for one in requests_of(run))


MISTAKES = [
    ("vide:X", ["no kind 'vide'", "did you mean 'video'?", "the kinds are text, opensmile, prosody, speech"]),
    ("", ["no kind ''"]),
    ("@pooling=cls", ["no kind ''"]),
    (":M", ["no kind ''"]),
    ("text:M@poling=cls", ["text has no 'poling'", "did you mean 'pooling'?", "it has pooling, context, prompt"]),
    ("opensmile:IS10@precision=bfloat16", ["opensmile has no 'precision'", "it has name"]),
    ("video:M@crop=frame", ["video has no 'crop'"]),
    ("text:M@pooling=max", ["pooling: 'max' is not one of cls, mean"]),
    ("text:M@context=two", ["context: 'two' is invalid"]),
    ("text:M@context=101", ["context: 101 is invalid", "from 0 to 100"]),
    ("text:M@device_map=perhaps", ["device_map: 'perhaps' is invalid"]),
    ("opensmile:IS99", ["model: 'IS99' is not one of ComParE_2016"]),
    ("speech", ["name the model, e.g. speech:microsoft/wavlm-large"]),
    ("image@crop=frame", ["name the model, e.g. image:"]),
    ("video", ["name the model, e.g. video:"]),
    ("text:", ["no model after the colon"]),
    ("text:@pooling=cls", ["no model after the colon"]),
    ("prosody:x", ["prosody has no model", "'x'"]),
    ("image:densenet121", ["densenet121 is no model of image; write face:densenet121"]),
    ("video:denseface", ["write face:denseface"]),
    ("face:openai/clip-vit-base-patch32", ["is no model of face; write image:openai/clip-vit-base-patch32"]),
    ("opensmile:prosody", ["prosody is no model of opensmile; write prosody"]),
    ("text:M@pooling=cls,pooling=mean", ["pooling is there twice"]),
    ("speech:M@precision=tf32", ["tf32 is for the whole run; give it with --precision"]),
    ("speech:M@precision=auto", ["auto is for the whole run"]),
    ("speech:M@precision=float8", ["precision: 'float8' is not one of"]),
    ("text:M@name=", ["name: '' is no name"]),
    ("text:M@name=..", ["name: '..' is no name"]),
    ("text:M@name=/", ["name: '/' is no name"]),
    ({"model": "M"}, ["a mapping with kind, model and keys"]),
    ({"kind": 3}, ["a mapping with kind, model and keys"]),
    (None, ["write KIND:MODEL@KEY=VALUE"]),
    (["text", "M"], ["write KIND:MODEL@KEY=VALUE"]),
    ({"kind": "text", "model": ["M"]}, ["model: ['M'] is invalid"]),
    ({"kind": "text", "model": ""}, ["the model is empty"]),
    ({"kind": "face", "model": ""}, ["the model is empty"]),
    ({"kind": "text", "model": "M", "context": True}, ["context: True is invalid"]),
    ({"kind": "text", "model": "M", "pooling": None}, ["pooling: None is not allowed"]),
    ({"kind": "text", "model": "M", 3: 4}, ["text has no '3'"]),
    ({"kind": "face", "model": "denseface", "normalisation": [129, 63.58]}, ["normalisation: [129, 63.58] is invalid"]),
    ({"kind": "text", "model": "M", "name": "a\nb"}, ["is no name"]),
]


@pytest.mark.parametrize(("line", "facts"), MISTAKES, ids=[str(line) for line, _ in MISTAKES])
def test_mistakes_are_one_line_that_says_what_is_right(line, facts):
    message = refused(line)
    assert message.startswith(f"--feature {line}: ")
    for fact in facts:
        assert fact in message


@pytest.mark.parametrize("line", ["text:M@,pooling=cls", "text:M@foo,pooling=cls", "text:M@=x"])
def test_what_does_not_begin_with_a_key_belongs_to_the_model(line):
    assert parse_feature(line, Options()).options.text_model == line.removeprefix("text:")


WORDS = st.text("abM019_-+./:;#&*!?|'\"\\{}[]()<>äß漢🙂", min_size=1)
VALUES = {
    "text": {
        "pooling": st.sampled_from(POOLINGS),
        "context": st.integers(0, 100),
        "prompt": WORDS,
        "describe": st.sampled_from(["none", "prosody"]),
        "output": st.sampled_from(["vectors", "probs"]),
        "device_map": st.booleans(),
    },
    "opensmile": {},
    "prosody": {},
    "speech": {
        "layers": WORDS,
        "pooling": st.sampled_from(AUDIO_POOLINGS),
        "output": st.sampled_from(["vectors", "probs"]),
    },
    "face": {
        "weights": WORDS,
        "normalisation": st.sampled_from(["129,63.58", "0.5,1", "ferplus"]),
        "runtime": st.sampled_from(RUNTIMES),
    },
    "image": {"crop": st.sampled_from(["face", "frame"]), "normalisation": st.sampled_from(["129,63.58", "1,2"])},
    "video": {},
}
MODELS = {
    "text": WORDS,
    "opensmile": st.sampled_from(["IS09", "eGeMAPSv02"]),
    "prosody": st.none(),
    "speech": WORDS,
    "face": st.sampled_from(["densenet121", "denseface"]),
    "image": WORDS,
    "video": WORDS,
}


@st.composite
def mappings(draw) -> dict[str, object]:
    kind = draw(st.sampled_from(sorted(KINDS)))
    shared = {"name": WORDS.filter(lambda name: bool(name.strip("./ ")) and name.isprintable())}
    if "precision" in KINDS[kind].keys:
        shared["precision"] = st.sampled_from([one for one in PRECISIONS if one != "tf32"])
    every = {**VALUES[kind], **shared}
    assert set(every) == set(KINDS[kind].keys)
    keys = draw(st.lists(st.sampled_from(sorted(every)), unique=True))
    found = {"kind": kind, **{key: draw(every[key]) for key in keys}}
    model = draw(MODELS[kind])
    return found if model is None else {**found, "model": model}


@given(mappings())
def test_a_mapping_and_its_line_are_the_same_options(mapping):
    model = f":{mapping['model']}" if "model" in mapping else ""
    keys = ",".join(f"{key}={value}" for key, value in mapping.items() if key not in ("kind", "model"))
    line = f"{mapping['kind']}{model}" + (f"@{keys}" if keys else "")
    mine = parse_feature(mapping, Options())
    assert mine.options == parse_feature(line, Options()).options
    # And what a YAML file says.
    assert mine.options == parse_feature(yaml.safe_load(yaml.safe_dump(mapping)), Options()).options


def test_plugins_are_kinds(site):  # noqa: F811
    found = parse_feature("loudness@window=0.1,name=loud,precision=float16", Options(fps=2.0))
    assert (found.modality, found.options.extractors) == ("audio", ("loudness",))
    assert found.options.extractor_options == {"loudness.window": "0.1"}
    assert (found.options.name, found.options.precision, found.options.fps) == ("loud", "float16", 2.0)
    mapping = parse_feature({"kind": "loudness", "window": 0.1, "name": "loud", "precision": "float16"}, Options())
    loudness = find_extractor("loudness")
    values = [{"window": one.options.extractor_options["loudness.window"]} for one in (found, mapping)]
    assert loudness.options(values[0]) == loudness.options(values[1])
    assert parse_feature("Scene", Options()).modality == "visual"
    assert "did you mean 'loudness'?" in refused("lowdness")
    assert "loudness takes no model after a colon" in refused("loudness:x")
    assert "precision: 'float8' is not one of" in refused("loudness@precision=float8")
    assert "tf32 is for the whole run" in refused("loudness@precision=tf32")
    assert "name: '' is no name" in refused("loudness@name=")
    assert "'absent' of package my_package 1.2 cannot be loaded" in refused("absent")


# -- files


def of_file(path: Path, text: str) -> list[FeatureRequest]:
    path.write_text(text, encoding="utf-8")
    return requests_of(Options(feature_set=path))


FORMS = [
    "- prosody\n- speech:/a/b@layers=each\n- kind: face\n  model: denseface\n  weights: random\n",
    "features:\n- prosody\n- kind: speech\n  model: /a/b\n  layers: each\n- 'face:denseface@weights=random'\n",
    "features: [prosody, {kind: speech, model: /a/b, layers: each}, {kind: face, model: denseface, weights: random}]",
]


@pytest.mark.parametrize("text", FORMS)
def test_a_file_is_a_list_of_lines_and_mappings(tmp_path, text):
    found = of_file(tmp_path / "set.yaml", text)
    assert [changed(one.options) for one in found] == [
        {**AUDIO, "audio_set": "prosody"},
        {**AUDIO, "audio_model": "/a/b", "layers": "each"},
        {**VISUAL, "visual_model": "denseface", "visual_weights": "random"},
    ]


def test_lines_and_a_file_add_up(tmp_path):
    (tmp_path / "set.yaml").write_text("[prosody]")
    found = requests_of(Options(features=("opensmile:IS10",), feature_set=tmp_path / "set.yaml"))
    assert [one.line for one in found] == ["opensmile:IS10", "prosody"]


def test_prosody_comes_with_texts_that_are_described():
    found = requests_of(Options(features=("text:M@describe=prosody", "text:N", "opensmile")))
    assert [(one.line, one.implicit) for one in found][-1] == ("prosody", True)
    assert len(found) == 4 and changed(found[-1].options) == {**AUDIO, "audio_set": "prosody"}
    # It is there already, before or after; but not under another name.
    for lines in (("prosody", "text:M@describe=prosody"), ("text:M@describe=prosody", "prosody")):
        assert not any(one.implicit for one in requests_of(Options(features=lines)))
    other = requests_of(Options(features=("text:M@describe=prosody", "prosody@name=p")))
    assert [one.implicit for one in other] == [False, False, True]
    plain = requests_of(Options(modalities=("text",), describe="prosody"))
    assert [(one.modality, one.named, one.implicit) for one in plain][0] == ("text", False, False)
    assert plain[1].implicit


HOSTILE = {
    "nothing": ("", "must be a list of features"),
    "a comment": ("# nothing\n", "must be a list of features"),
    "an empty list": ("features: []", "must be a list of features"),
    "a word": ("prosody", "must be a list of features"),
    "a mapping": ("kind: prosody", "must be a list of features"),
    "more keys": ("features: [prosody]\nmore: 1", "must be a list of features"),
    "a list in a list": ("- [prosody]", "feature 1: write KIND:MODEL"),
    "a number": ("- prosody\n- 3", "feature 2: write KIND:MODEL"),
    "an unknown kind": ("- prosody\n- smell:x", "feature 2: no kind 'smell'"),
    "a line with an error": ("- {kind: text, model: M, pooling: max}", "feature 1: pooling: 'max' is not one of"),
    "not YAML": ("features: [", "not valid YAML"),
    "a Python object": ("- !!python/object/apply:os.system ['touch harmed']", "not valid YAML"),
    "many aliases": (
        "a: &a [x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
        + "features: *i",
        "set.yaml",
    ),
    "deep": ("[" * 5000, "not valid YAML"),
    "not text": ("- \0", "set.yaml"),
    "a date": ("- 2020-01-01", "set.yaml"),
    "infinite": ("- {kind: text, context: .inf}", "set.yaml"),
    "a long number": ("- {kind: text, context: 1" + "0" * 5000 + "}", "set.yaml"),
    "itself": ("&a [*a]", "set.yaml"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.timeout(30)
def test_files_that_are_no_lists_are_one_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    text, fact = HOSTILE[name]
    with pytest.raises(UserError) as error:
        of_file(tmp_path / "set.yaml", text)
    message = error.value.message
    assert message.startswith(str(tmp_path / "set.yaml")) and fact in message and "\n" not in message
    assert len(message) < 2000 and [path.name for path in tmp_path.iterdir()] == ["set.yaml"]


def test_the_command_refuses_in_one_line(tmp_path):
    """Before anything is written; and what the lines replace is a usage error beside them."""
    manifest = Manifest("toy", ["a"], tmp_path, [Utterance("u", "d", 0, "A", "t", "a", "train")])
    write_manifest(manifest, tmp_path / "m.jsonl")
    (tmp_path / "set.yaml").write_text("- prosody\n")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xff" * 9)
    before = sorted(path.name for path in tmp_path.iterdir())

    def call(*arguments, code: int) -> str:
        command = ["extract", "manifest", str(tmp_path / "m.jsonl"), "--out", str(tmp_path / "s.h5")]
        result = CliRunner().invoke(main, [*command, *map(str, arguments)])
        assert result.exit_code == code and "Traceback" not in result.output, (result.output, result.exception)
        lines = [line for line in result.output.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1 and result.output.splitlines()[-1] == lines[0]
        return lines[0]

    assert "none.yaml" in call("--features", tmp_path / "none.yaml", code=1)
    assert str(tmp_path) in call("--features", tmp_path, code=1)
    assert "bytes.yaml" in call("--features", tmp_path / "bytes.yaml", code=1)
    assert "no kind 'smell'" in call("--feature", "smell", code=1)
    assert re.search(r"no kind 'a.*b'", call("--feature", "a\nb", code=1))
    for more in (
        ["--modalities", "audio"],
        ["--text-model", "M"],
        ["--audio-set", "IS10"],
        ["--audio-model", "M"],
        ["--visual-model", "M"],
        ["--extractor", "loudness"],
    ):
        for lines in (["--feature", "prosody"], ["--features", tmp_path / "set.yaml"]):
            message = call(*lines, *more, code=2)
            assert f"{more[0]} and --feature exclude each other" in message
    assert sorted(path.name for path in tmp_path.iterdir()) == before
