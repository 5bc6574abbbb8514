"""Recipes, --set and their errors."""

import re
from importlib import resources

import pytest
import yaml

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.train.config import Config, load_config, parse_config, protocol_label, recipe_names
from erc_toolkit.train.models.registry import settings_class


def test_recipes_contain_the_published_settings():
    iemocap, meld = load_config("iemocap"), load_config("meld")
    model, train = iemocap.model, iemocap.train
    assert (model.hidden, model.heads, model.window, model.dropout, model.dropout_warm_up) == (512, 8, 20, 0.5, 60)
    assert (model.q_base, model.p_exe, model.lam) == (0.3, 0.5, 0.9)
    assert (train.epochs, train.batch_size, train.lr, train.weight_decay) == (61, 16, 6.8e-5, 5e-5)
    assert (train.class_weights, train.protocol, iemocap.data.speaker_slots) == ("balanced", "validation", 2)
    model, train = meld.model, meld.train
    assert (model.hidden, model.window, model.dropout, model.dropout_warm_up) == (512, 6, 0.11, 0)
    assert (model.q_base, model.p_exe, model.lam) == (0.2, 0.2, 0.9)
    assert (train.epochs, train.batch_size, train.lr, train.weight_decay) == (20, 64, 5e-5, 7.5e-5)
    assert (train.class_weights, train.protocol, meld.data.speaker_slots) == ("none", "validation", 9)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_names_every_setting_with_its_command(name):
    text = (resources.files("erc_toolkit.manifests") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    assert re.match(rf"# erc-toolkit train \S+ --recipe {name} --out \S+\n", text)
    content = yaml.safe_load(text)
    every = Config(model=settings_class(content["model"]["name"])()).as_dict()
    assert {s: list(keys) for s, keys in content.items()} == {s: list(keys) for s, keys in every.items()}
    assert load_config(name).as_dict() == content


def test_set_changes_values_of_every_type():
    config = load_config(
        "demo",
        [
            "model.window=5",
            "train.lr=1e-4",
            "data.modalities=[text,audio]",
            "data.audio=ComParE_2016",
            "train.protocol=best-on-test",
            "model.dropout=0",
            "data.speaker_slots=null",
        ],
    )
    assert (config.model.window, config.train.lr, config.data.modalities) == (5, 1e-4, ["text", "audio"])
    assert (config.data.audio, config.model.dropout, config.data.speaker_slots) == ("ComParE_2016", 0.0, None)
    assert protocol_label(config) == "best-on-test (optimistic)"
    assert load_config("demo", ["data.modalities=text, visual"]).data.modalities == ["text", "visual"]


@pytest.mark.parametrize(
    "change, facts",
    [
        ("model.windw=5", ("'model.windw'", "'model.window'")),
        ("window=5", ("'window'", "'model.window'")),
        ("modle.window=5", ("'modle.window'", "'model.window'")),
        ("model.window", ("section.key=value",)),
        ("model.window=five", ("model.window is 'five'", "whole number")),
        ("model.window=true", ("model.window is True", "whole number")),
        ("model.window=2.5", ("model.window is 2.5", "whole number")),
        ("model.window=-1", ("model.window is -1", "at least 0")),
        ("model.fusion=[1, 2]", ("model.fusion", "[1, 2]", "names to numbers")),
        ("model.fusion={txt: 1}", ("model.fusion", "'txt'", "'text'")),
        ("model.fusion={text: joy}", ("model.fusion.text", "'joy'", "finite number")),
        ("model.graph=diferential", ("model.graph is 'diferential'", "attention", "convolution", "'differential'")),
        ("model.dropout=1", ("model.dropout is 1.0", "below 1")),
        ("train.lr=0", ("train.lr is 0.0", "above 0")),
        ("train.lr=.nan", ("train.lr is nan", "finite number")),
        ("train.lr=[1]", ("train.lr is [1]", "finite number")),
        ("model.q_base=1.5", ("model.q_base is 1.5", "at most 1")),
        ("data.modalities=3", ("data.modalities is 3", "list of strings or null")),
        ("data.modalities=text,visul", ("data.modalities", "'visul'", "'visual'")),
        ("data.modalities=[]", ("data.modalities", "one or more", "text, audio, visual")),
        ("data.modalities=text,text", ("data.modalities", "once")),
        ("data.audio=3", ("data.audio is 3", "a list of names", "null")),
        ("train.protocol=validaton", ("train.protocol is 'validaton'", "'validation'", "best-on-test")),
        ("model.heads=5", ("model.hidden", "multiple of model.heads=5")),
        ("model.name=bert", ("'bert'", "amb-dsgdn")),
        ("model.window=[", ("--set model.window=[", "YAML")),
    ],
)
def test_invalid_settings_are_named_in_one_line(change, facts):
    with pytest.raises(UserError) as caught:
        load_config("demo", [change])
    message = caught.value.message
    assert all(fact in message for fact in facts) and "\n" not in message, message


@pytest.mark.parametrize(
    "text, facts",
    [
        ("model:\n  windows: 3\n", ("'model.windows'", "'model.window'")),
        ("modell:\n  window: 3\n", ("'modell'", "'model'")),
        ("model: 3\n", ("section 'model'",)),
        ("- 3\n", ("sections data, model and train",)),
        ("model: {window: 'x'}\n", ("model.window is 'x'",)),
        ("a: [b\n", ("YAML",)),
        ("a: !!python/object/apply:os.getcwd []\n", ("YAML",)),
    ],
)
def test_invalid_recipe_files_are_named_in_one_line(tmp_path, text, facts):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_config(str(path))
    message = caught.value.message
    assert all(fact in message for fact in (str(path), *facts)) and "\n" not in message, message


def test_an_unknown_recipe_suggests_the_nearest_ones():
    for name, meant in (("iemocpa", "iemocap"), ("sdt-meldd", "sdt-meld")):
        with pytest.raises(UserError, match=f"{name}: .*did you mean .*'{meant}'"):
            load_config(name)
    with pytest.raises(UserError, match="nosuch: neither"):
        load_config("nosuch")


def test_a_file_may_omit_settings(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("model:\n  window: 3\ntrain:\n")
    assert load_config(str(path)).as_dict() == parse_config({"model": {"window": 3}}, "").as_dict()
    assert load_config(str(path)).model.hidden == Config().model.hidden


def test_settings_under_their_old_names():
    config = load_config("demo", ["train.optimiser=adamw", "model.warm_up=7"])
    assert (config.train.optimizer, config.model.dropout_warm_up) == ("adamw", 7)
    with pytest.raises(UserError, match="model.warm_up"):  # a model without such a setting
        load_config("demo", ["model.name=bigru", "model.warm_up=7"])
