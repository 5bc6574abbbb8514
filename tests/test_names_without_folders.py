"""Pages and cards name files without their folders, which say whose they are."""

from __future__ import annotations

import h5py
from click.testing import CliRunner
from store_support import unseal
from test_train_support import write_store

from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.exchange.card import card_of
from erc_toolkit.toolkit.store import FeatureStore
from erc_toolkit.train.api import train


def test_a_card_has_the_command_without_folders(tmp_path):
    command = "erc-toolkit extract meld '/home/ann/my corpus' --out=/data/x.h5 && erc-toolkit reduce /data/x.h5 --to 8"
    store = write_store(tmp_path / "s.h5")
    unseal(store)
    with h5py.File(store, "r+") as file:
        file.attrs.update({"command": command, "converted_from": "/data/old/ie.pkl"})
    with FeatureStore.open(store) as opened:
        card = card_of(opened, opened.feature_names())
    assert "/home" not in card and "/data" not in card and "ie.pkl" in card
    assert "extract meld 'my corpus' --out=x.h5 && erc-toolkit reduce x.h5 --to 8" in card


def test_a_report_names_the_store_by_name_and_hash_even_if_it_is_gone(tmp_path):
    store = write_store(tmp_path / "s.h5")
    small = {"train.epochs": 1, "model.hidden": 8, "model.heads": 2}
    train(store, tmp_path / "run", recipe="demo", settings=small, notify=lambda _: None)
    with FeatureStore.open(store) as opened:
        shown = f"s.h5 ({opened.content_hash[:12]})"
    for gone in (False, True):
        if gone:
            store.unlink()
        arguments = ["report", str(tmp_path / "run"), "--out", str(tmp_path / "r.html")]
        result = CliRunner().invoke(main, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        page = (tmp_path / "r.html").read_text(encoding="utf-8")
        assert shown in page and str(tmp_path) not in page
        assert gone == ("dialogues are not shown" in page)
