"""The public API: its names, how light its import is, and the whole path from a manifest to results."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import erc_toolkit
from erc_toolkit import UserError
from erc_toolkit.toolkit.manifest import write_manifest

SMALL = {"model.hidden": 16, "model.heads": 2, "train.epochs": 2, "model.dropout_warm_up": 0}


def test_import_is_light():
    listing = "print(*sys.modules)"
    bare = subprocess.run([sys.executable, "-c", f"import sys; {listing}"], capture_output=True, text=True, check=True)
    code = f"import sys, erc_toolkit; {listing}"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    added = set(loaded.stdout.split()) - set(bare.stdout.split())
    assert "erc_toolkit" in added
    assert {name.partition(".")[0] for name in added} <= {"erc_toolkit"} | set(sys.stdlib_module_names)
    assert len([name for name in added if name.startswith("erc_toolkit.")]) < 10  # its rooms are imported at first use


def test_every_public_name_exists_and_is_documented():
    assert set(erc_toolkit.__all__) <= set(dir(erc_toolkit))
    for name in erc_toolkit.__all__:
        found = getattr(erc_toolkit, name)
        assert name == "__version__" or inspect.getdoc(found), name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = erc_toolkit.no_such_name


@pytest.mark.parametrize("first", ["erc_toolkit.extract.run.engine", "erc_toolkit.train.loop.trainer", "erc_toolkit"])
def test_packages_are_callable_whatever_was_imported_before(first):
    code = (
        f"import inspect, {first}\n"
        "from erc_toolkit import extract, train\n"
        "import erc_toolkit.extract.corpora.registry as registry\n"
        "print(list(inspect.signature(extract).parameters)[:2], list(inspect.signature(train).parameters)[:2])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "['manifest', 'out'] ['store', 'out']"


def test_from_manifest_to_results(utterances, text_encoder, tmp_path):
    lines: list[str] = []
    manifest = erc_toolkit.Manifest("demo", ["joy", "sadness"], tmp_path, utterances)
    write_manifest(manifest, tmp_path / "manifest.jsonl")
    assert erc_toolkit.load_manifest(tmp_path / "manifest.jsonl").utterances == manifest.utterances
    store = tmp_path / "features.h5"
    summary = erc_toolkit.extract(
        tmp_path / "manifest.jsonl", store, modalities=("text",), text_model=str(text_encoder), notify=lines.append
    )
    assert summary.utterances == len(utterances) and any(line.startswith("text: ") for line in lines)
    options = {"recipe": "demo", "settings": SMALL, "device": "cpu", "notify": lines.append}
    result = erc_toolkit.train(store, tmp_path / "run", seed=3, **options)
    assert result["seed"] == 3 and result["epochs"] == 2
    measures = erc_toolkit.evaluate(tmp_path / "run", device="cpu", notify=lines.append)
    assert measures["weighted_f1"] == pytest.approx(result["test"]["weighted_f1"])
    several = erc_toolkit.train_several(store, tmp_path / "several", 2, first_seed=5, **options)
    assert several["seeds"] == [5, 6]
    with erc_toolkit.FeatureStore.open(store) as opened:
        assert len(opened) == len(utterances)
    dataset = erc_toolkit.DialogueDataset(store, split="train")
    assert len(erc_toolkit.collate_padded([dataset[0], dataset[1]])) == 2


def test_mistakes_are_user_errors(tmp_path, utterances):
    manifest = erc_toolkit.Manifest("demo", ["joy", "sadness"], tmp_path, utterances)
    with pytest.raises(UserError, match="colour"):
        erc_toolkit.extract(manifest, tmp_path / "x.h5", colour="red")
    with pytest.raises(UserError, match="pooling"):
        erc_toolkit.extract(manifest, tmp_path / "x.h5", pooling="sideways")
    with pytest.raises(UserError, match="none.h5"):
        erc_toolkit.train(tmp_path / "none.h5", tmp_path / "run")
    with pytest.raises(UserError, match="run"):
        erc_toolkit.evaluate(tmp_path / "run")
