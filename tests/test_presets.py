"""Presets of extraction: shipped ones, a user's own, what they need, what follows, and mistakes in them."""

from __future__ import annotations

import hashlib

import pytest
import yaml
from click.testing import CliRunner

from erc_toolkit.extract.presets import load_preset, preset_names, preset_text
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.demo.corpus import make_dialogue_corpus
from erc_toolkit.toolkit.demo.encoders import make_text_encoder
from erc_toolkit.toolkit.store import FeatureStore


def extract(*arguments):
    return CliRunner().invoke(main, ["extract", *map(str, arguments)])


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory):
    """A corpus in IEMOCAP's raw layout with a dialogue in each session, and a text encoder with four layers."""
    folder = tmp_path_factory.mktemp("dialogues")
    corpus = make_dialogue_corpus(folder / "raw", seed=1, dialogues=10)
    return corpus, make_text_encoder(folder / "encoder", ["a few words of text"], layers=4)


def test_the_papers_dimensions(dialogues, tmp_path):
    """1024 (here the encoder's own width) four times, 1582 and 342; with the weights that are given."""
    corpus, encoder = dialogues
    arguments = ["iemocap", corpus.root, "--preset", "paper", "--text-model", encoder, "--out", tmp_path / "s.h5"]
    fast = ["--face-detector", "haar", "--fps", "2", "--visual-weights", "random"]
    result = extract(*arguments, *fast)
    assert result.exit_code == 0, result.output
    assert "preset paper" in result.output and "--pooling last4" in result.output and "--fps 10" not in result.output
    with FeatureStore.open(tmp_path / "s.h5") as store:
        digest = hashlib.sha256(preset_text("paper").encode()).hexdigest()
        assert f"preset paper (sha256 {digest}): --pooling last4" in str(store.attrs["notes"])
        dims = {name: store.feature(name).dim for name in store.feature_names()}
        # Both people, each in their half, and all three splits.
        found = store.feature("visual/denseface").present()
        speakers = [store.speaker_names[i] for i in store.column("speaker")]
        for who in ("F", "M"):
            own = [ok for ok, name in zip(found, speakers, strict=True) if name == who]
            assert sum(own) > 0.8 * len(own), who
        assert {*store.column("split")} == {"train", "val", "test"}
        assert '"frames_per_second": 2.0' in store.feature("visual/denseface").attrs["parameters"]
    assert dims == {**{f"text/encoder-{i}": 128 for i in (1, 2, 3, 4)}, "audio/IS10": 1582, "visual/denseface": 342}


def test_melds_audio_is_reduced_and_stays_so(raw, dialogues, tmp_path):
    own = yaml.safe_load(preset_text("paper"))
    own["corpora"]["meld"]["reduce"][0] |= {"to": 5}
    own["corpora"]["meld"]["options"] |= {
        "audio-set": "eGeMAPSv02",
        "visual-weights": "random",
        "face-detector": "haar",
    }
    own["corpora"]["meld"]["reduce"][0]["feature"] = "audio/eGeMAPSv02"
    del own["needs"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(own))
    arguments = ["meld", raw, "--preset", tmp_path / "mine.yaml", "--out", tmp_path / "s.h5", "--fps", "2"]
    refused = extract("meld", raw, "--preset", "paper", "--out", tmp_path / "s.h5", "--visual-weights", "random")
    assert refused.exit_code == 1 and "reduced to 300 dimensions, more than the " in refused.output, refused.output
    assert not [*tmp_path.glob("s.h5*")]
    for said in ("5 dimensions by anova", "unchanged"):
        result = extract(*arguments, "--text-model", dialogues[1])
        assert result.exit_code == 0 and said in result.output, result.output
    with FeatureStore.open(tmp_path / "s.h5") as store:
        assert store.feature("audio/eGeMAPSv02-anova5").dim == 5


def test_shown_without_any_other_argument():
    for name in preset_names():
        result = extract("iemocap", "--show-preset", name)
        assert result.exit_code == 0 and yaml.safe_load(result.output) == yaml.safe_load(preset_text(name))
    meld, iemocap = load_preset("paper", "MELD"), load_preset("paper", "iemocap")
    assert meld.options["audio_set"] == "ComParE_2016" and iemocap.options["audio_set"] == "IS10"
    assert meld.reduce == [{"feature": "audio/ComParE_2016", "to": 300, "method": "anova"}] and iemocap.reduce == []


def test_given_options_replace_the_presets(tmp_path):
    (tmp_path / "own.yaml").write_text(
        "options: {audio-model: wavlm, modalities: 'text,audio', visual-model: denseface, visual-weights: w.pt}"
    )
    preset = load_preset(str(tmp_path / "own.yaml"), "meld")
    assert preset.chosen({"modalities", "audio_set", "visual_model"}) == {}
    shown = preset.describe(preset.chosen({"audio_set", "visual_model"}))
    assert shown.endswith(": --modalities text,audio")
    assert "--audio-model wavlm" in preset.describe(preset.chosen({"audio_model_layer"}))


def test_what_must_be_given_is_asked_for_before_the_work(dialogues, tmp_path):
    corpus, encoder = dialogues
    out = tmp_path / "s.h5"
    result = extract("iemocap", corpus.root, "--preset", "paper", "--text-model", encoder, "--out", out)
    assert result.exit_code == 1 and "--visual-weights" in result.stderr and "train-face" in result.stderr
    assert result.stderr.count("\n") == 1 and not list(tmp_path.iterdir())
    result = extract("iemocap", corpus.root, "--preset", "papre", "--out", out)
    assert result.exit_code == 1 and "did you mean 'paper'" in result.stderr


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("[1]", ("must contain options",)),
        ("options: {audio-sett: IS10}", ("audio-sett", "audio-set")),
        ("options: {audio-set: IS99}", ("options.audio-set", "IS99")),
        ("options: {fps: [1]}", ("options.fps",)),
        ("optoins: {}", ("optoins", "options")),
        ("needs: {visual-weights: 3}", ("needs.visual-weights",)),
        ("reduce: [{feature: audio/x}]", ("reduce",)),
        ("reduce: {feature: audio/x, to: 3}", ("reduce",)),
        ("corpora: {meld: {reduse: []}}", ("corpora.meld", "reduse")),
        ("options: !!python/object/apply:os.getcwd []", ("mine.yaml",)),
        ("{a", ("mine.yaml",)),
    ],
)
def test_mistakes_in_a_preset(tmp_path, text, facts):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_preset(str(tmp_path / "mine.yaml"), "meld")
    message = caught.value.message
    assert all(fact in message for fact in (*facts, "mine.yaml")) and "\n" not in message, message
