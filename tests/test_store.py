"""The feature store: data round-trips, writing is atomic, and hostile or damaged files are refused."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import xxhash
from click.testing import CliRunner
from store_support import as_earlier, flip, in_chunks, place_of, unseal

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.manifest import Utterance
from erc_toolkit.toolkit.store import FeatureStore, StoreWriter


def test_round_trip(store_path, utterances):
    with FeatureStore.open(store_path) as store:
        assert len(store) == len(utterances) == 45
        assert (store.corpus, store.labels, store.speaker_names) == ("small", ["joy", "sadness"], ["A", "B"])
        assert store.dialogue_ids == [f"d{d}" for d in range(9)]
        assert store.column("id").tolist() == [u.id for u in utterances]
        assert store.column("text").tolist() == [u.text for u in utterances]
        assert store.column("label").tolist() == [{"joy": 0, "sadness": 1, None: -1}[u.label] for u in utterances]
        assert store.column("split").tolist() == [u.split for u in utterances]
        assert np.isnan(store.column("start_s")[0]) and store.column("end_s")[2] == 1.5
        assert store.feature_names() == ["audio/IS10", "text/org--name"]
        audio = store.feature("audio/IS10")
        assert audio.dim == 700 and audio.values().dtype == np.float32
        assert audio.present().tolist() == [i % 5 != 0 for i in range(45)]
        assert (audio.values()[~audio.present()] == 0).all()
        assert set(audio.reasons()[~audio.present()]) == {"no audio track"} and set(
            audio.reasons()[audio.present()]
        ) == {""}
        assert audio.dimension_names()[699] == "pcm_699" and audio.details()["seconds"][7] == 0.7
        rows = store.rows("d8")
        assert (audio.values(rows) == audio.values()[36:45]).all() and rows == store.rows(8)
        assert [name for name, _ in store.dialogues()] == store.dialogue_ids
        store.verify()


def test_readable_with_h5py_alone(store_path):
    """The layout that docs/reference/store.md documents for other programs."""
    with h5py.File(store_path) as f:
        assert f.attrs["format"] == "erc-feature-store" and f.attrs["schema"] == 1
        assert list(f.attrs["labels"]) == ["joy", "sadness"]
        first, last = f["dialogues/offsets"][3:5]
        assert f["features/audio/IS10/values"][first:last].shape == (4, 700)
        assert f["utterances/text"].asstr()[first] == "naïve text 0"
        assert {
            d.fletcher32 for d in (f["utterances/label"], f["dialogues/offsets"], f["features/audio/IS10/present"])
        } == {True}
        values, sums = (f[f"features/audio/IS10/{name}"] for name in ("values", "checksums"))
        assert values.chunks is None and values.dtype == "<f4" and sums.dtype == "<u8"
        assert len(sums) == 2 and sums.attrs["rows"] == 23


def test_the_documented_way_to_recompute_checksums(store_path):
    page = (Path(__file__).parents[1] / "docs/reference/store.md").read_text("utf-8")
    code = re.search(r"```python\n(x, sums = .*?)```", page, re.DOTALL)[1]
    found = []
    for _ in range(2):
        with h5py.File(store_path) as f:
            names = {"f": f, "xxhash": xxhash}
            exec(code, names)
            found.append(names["ok"])
        flip(store_path, place_of(store_path, "features/audio/IS10/values") + 45 * 2800 - 1)
    assert found == [True, False]


def test_same_content_same_hash(tmp_path, utterances):
    hashes = []
    for name, shift in (("a", 0), ("b", 0), ("c", 1)):
        with StoreWriter(tmp_path / name, corpus=name, labels=["joy", "sadness"], utterances=utterances) as writer:
            values = np.full((45, 3), shift, np.float32)
            writer.add_feature("text", "x", values, np.ones(45, bool), [""] * 45)
        with FeatureStore.open(tmp_path / name) as store:
            hashes.append(store.content_hash)
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_error_leaves_no_files(tmp_path, utterances):
    with (
        pytest.raises(RuntimeError),
        StoreWriter(tmp_path / "x.h5", corpus="x", labels=["joy", "sadness"], utterances=utterances),
    ):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_existing_store_survives_a_killed_writer(store_path):
    """SIGKILL in the middle of writing leaves the old store unchanged."""
    before = store_path.read_bytes()
    code = (
        "import os, signal, sys, numpy as np\n"
        "from erc_toolkit.toolkit.store import StoreWriter\n"
        "from erc_toolkit.toolkit.manifest import Utterance\n"
        "us = [Utterance(str(i), 'd', i, 'A', 't', None, 'train') for i in range(500)]\n"
        "with StoreWriter(sys.argv[1], corpus='x', labels=[], utterances=us) as w:\n"
        "    w.add_feature('text', 'x', np.ones((500, 2000)), np.ones(500, bool), [''] * 500)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    died = subprocess.run([sys.executable, "-c", code, str(store_path)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert store_path.read_bytes() == before


@pytest.mark.parametrize(
    "values, present, reasons",
    [
        (np.full((45, 2), np.nan), np.ones(45, bool), [""] * 45),
        (np.ones((44, 2)), np.ones(45, bool), [""] * 45),
        (np.ones((45, 2)), np.zeros(45, bool), [""] * 45),
        (np.ones((45, 2)), np.ones(45, bool), ["odd"] * 45),
    ],
)
def test_writer_refuses_what_the_schema_forbids(tmp_path, utterances, values, present, reasons):
    with (
        pytest.raises(ValueError),
        StoreWriter(tmp_path / "x", corpus="x", labels=["joy", "sadness"], utterances=utterances) as w,
    ):
        w.add_feature("text", "x", values, present, reasons)


def refused(path) -> str:
    with pytest.raises(UserError) as error, FeatureStore.open(path) as store:
        for name in store.feature_names():
            store.feature(name).values()
        store.verify()
    message = error.value.message
    assert str(path) in message and "\n" not in message
    return message


def test_refuses_missing_unrelated_and_truncated_files(tmp_path, store_path):
    refused(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("hello")
    assert "HDF5" in refused(tmp_path / "text.h5")
    with h5py.File(tmp_path / "foreign.h5", "w") as f:
        f["x"] = [1]
    assert "feature store" in refused(tmp_path / "foreign.h5")
    data = store_path.read_bytes()
    for keep in (0.1, 0.5, 0.9, 0.999):
        (tmp_path / "cut.h5").write_bytes(data[: int(len(data) * keep)])
        refused(tmp_path / "cut.h5")
    unseal(store_path)
    with h5py.File(store_path, "r+") as f:
        f.attrs["schema"] = 2
    assert "schema 2" in refused(store_path)


@pytest.mark.parametrize("layout", [lambda path: path, in_chunks])
def test_a_flipped_byte_is_noticed(store_path, layout):
    place = place_of(layout(store_path), "features/audio/IS10/values") + 100
    flip(store_path, place)
    assert "/features/audio/IS10/values" in refused(store_path)
    flip(store_path, place)
    with h5py.File(store_path) as f:
        text = f["utterances/text"][0]
    flip(store_path, store_path.read_bytes().find(text) + 2, 1)
    assert "/utterances/text" in refused(store_path)


def replace(path, name, make):
    with h5py.File(path, "r+") as f:
        del f[name]
        make(f)


def test_refuses_data_outside_the_file(store_path, tmp_path):
    """HDF5 data can refer to other files, so a store of 3 kB could return the content of any file."""
    secret = tmp_path / "secret"
    secret.write_bytes(os.urandom(45 * 8 * 4))
    name = "features/text/org--name/values"
    replace(
        store_path,
        name,
        lambda f: f.create_dataset(name, (45, 8), "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)]),
    )
    assert "other files" in refused(store_path)
    layout = h5py.VirtualLayout((45, 8), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "x", (45, 8))
    replace(store_path, name, lambda f: f.create_virtual_dataset(name, layout))
    assert "other files" in refused(store_path)
    replace(store_path, name, lambda f: f.__setitem__(name, h5py.ExternalLink(str(secret), "/x")))
    assert "link" in refused(store_path)
    replace(store_path, name, lambda f: f.__setitem__(name, h5py.SoftLink("/features/audio/IS10/values")))
    assert "link" in refused(store_path)


def test_refuses_sizes_beyond_the_stored_bytes(store_path):
    name = "features/text/org--name/values"
    replace(store_path, name, lambda f: f.create_dataset(name, (45, 10**11), "f4", chunks=(1, 1000)))
    tracemalloc.start()
    try:
        assert name in refused(store_path)
        assert tracemalloc.get_traced_memory()[1] < 10**7  # the file claims 18 * 10**12 bytes
    finally:
        tracemalloc.stop()


def point_all_at_the_first(path, offset: int, count: int) -> None:
    """Makes `count` strings, whose references start at an offset in the file, share the same bytes."""
    data = bytearray(path.read_bytes())
    data[offset : offset + 16 * count] = data[offset : offset + 16] * count
    path.write_bytes(data)


def test_refuses_strings_that_share_the_same_bytes(tmp_path):
    """A small file could exhaust memory: here 5 GB of strings in a file of 3 MB, read within 2 GB."""
    us = [Utterance(str(i), "d", i, "A", "x" * (1 if i else 1_000_000), None, "train") for i in range(5000)]
    with StoreWriter(tmp_path / "s.h5", corpus="x", labels=[], utterances=us):
        pass
    with h5py.File(tmp_path / "s.h5") as f:
        point_all_at_the_first(tmp_path / "s.h5", f["utterances/text"].id.get_offset(), 5000)
    with h5py.File(tmp_path / "s.h5") as f:
        assert f["utterances/text"][4999] == b"x" * 1_000_000
    with FeatureStore.open(tmp_path / "s.h5") as store:
        assert store.column("id")[4999] == "4999"  # unread datasets do not interfere
    for use in ("store.column('text')", "store.verify()"):
        code = (
            "import resource, sys\n"
            "from erc_toolkit.toolkit.store import FeatureStore\n"
            "from erc_toolkit.toolkit.base.errors import UserError\n"
            "resource.setrlimit(resource.RLIMIT_AS, (1 << 31, 1 << 31))\n"
            "with FeatureStore.open(sys.argv[1]) as store:\n"
            "    try:\n"
            f"        {use}\n"
            "    except UserError as error:\n"
            "        print(error.message)\n"
        )
        printed = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "s.h5"], capture_output=True, text=True, check=True
        ).stdout
        assert "/utterances/text" in printed and "5,000 " in printed and "5,000,040,000 bytes" in printed


def test_refuses_labels_that_share_the_same_bytes(store_path):
    with h5py.File(as_earlier(store_path), "r+") as f:
        f.attrs["labels"] = ["y" * 6000] + [f"label{i:03}" for i in range(199)]
    references = re.search(rb"\x70\x17\0\0.{12}(\x08\0\0\0.{12}){199}", store_path.read_bytes(), re.DOTALL)
    point_all_at_the_first(store_path, references.start(), 200)
    with h5py.File(store_path) as f:
        assert f.attrs["labels"][199] == "y" * 6000
    with FeatureStore.open(store_path) as store, pytest.raises(UserError, match="1,200,000 characters"):
        _ = store.labels
    assert "1,200,000 characters" in refused(store_path)


def test_refuses_attributes_of_many_values(tmp_path, store_path, utterances):
    unseal(store_path)
    with h5py.File(store_path, "r+") as f:
        f.attrs["labels"] = [str(i) for i in range(257)]
    message = refused(store_path)
    assert "'labels'" in message and "257 values" in message
    with h5py.File(store_path, "r+") as f:
        f["features/audio/IS10"].attrs["extractor"] = np.zeros(8_000)
    with (
        FeatureStore.open(store_path) as store,
        pytest.raises(UserError, match="/features/audio/IS10 .*'extractor'.* 8,000 values"),
    ):
        _ = store.feature("audio/IS10").attrs
    with pytest.raises(UserError, match="257 labels.* 256"):
        StoreWriter(tmp_path / "x.h5", corpus="x", labels=[str(i) for i in range(257)], utterances=utterances)


def test_refuses_a_list_in_place_of_a_string(store_path):
    ragged = h5py.vlen_dtype(np.int32)
    replace(
        store_path,
        "features/audio/IS10/reason",
        lambda f: f.create_dataset("features/audio/IS10/reason", (45,), ragged),
    )
    assert "/features/audio/IS10/reason" in refused(store_path)


def test_refuses_a_loop_of_groups(store_path):
    with h5py.File(store_path, "r+") as f:
        f["features/audio/loop"] = f["features"]
    assert "/features/audio/loop" in refused(store_path)
    with FeatureStore.open(store_path) as store:
        for use in (store.check, lambda: store.feature("audio/loop")):
            with pytest.raises(UserError, match="/features/audio/loop"):
                use()


_ELSEWHERE = {"external": [("secret", 0, h5py.h5f.UNLIMITED)]}
HOSTILE = [  # a path, what uses it, and what is put there
    ("utterances/text", "text", lambda f, name: f.__setitem__(name, h5py.SoftLink("/utterances/id"))),
    ("utterances/position", "position", lambda f, name: f.create_dataset(name, (45,), "i4", **_ELSEWHERE)),
    ("speakers/name", "speakers", lambda f, name: f.__setitem__(name, h5py.ExternalLink("other.h5", "/x"))),
    ("dialogues/id", "dialogues", lambda f, name: f.create_dataset(name, (9,), "S8", **_ELSEWHERE)),
    ("features/audio/IS10/present", "present", lambda f, name: f.create_dataset(name, (45,), bool, **_ELSEWHERE)),
    ("features/audio/IS10/reason", "reason", lambda f, name: f.create_dataset(name, data=["x"] * 44)),
    (
        "features/audio/IS10/dimension_names",
        "names",
        lambda f, name: f.create_dataset(name, (10**12,), "S9", chunks=(1000,)),
    ),
    ("features/audio/IS10/details", "details", lambda f, name: f.__setitem__(name, h5py.SoftLink("/utterances"))),
    (
        "features/audio/IS10/details/seconds",
        "details",
        lambda f, name: f.create_dataset(name, (45,), "f8", **_ELSEWHERE),
    ),
    ("features/text", "features", lambda f, name: f.__setitem__(name, h5py.SoftLink("/features/audio"))),
]


@pytest.mark.parametrize("name, used_by, make", HOSTILE, ids=[name for name, *_ in HOSTILE])
def test_everything_is_checked_before_its_first_use(store_path, tmp_path, utterances, name, used_by, make):
    """Conversely, a hostile object that is not used does not affect the use of others."""
    replace(store_path, name, lambda f: make(f, name))
    uses = {
        "text": lambda s: s.column("text"),
        "speakers": lambda s: s.speaker_names,
        "dialogues": lambda s: s.dialogue_ids,
        "position": lambda s: s.column("position"),
        "present": lambda s: s.feature("audio/IS10").present(),
        "reason": lambda s: s.feature("audio/IS10").reasons(),
        "names": lambda s: s.feature("audio/IS10").dimension_names(),
        "details": lambda s: s.feature("audio/IS10").details(),
        "features": lambda s: s.feature_names(),
    }
    outcomes = {}
    with FeatureStore.open(store_path) as store:
        for key, use in uses.items():
            try:
                use(store)
                outcomes[key] = "read"
            except UserError as error:
                assert str(store_path) in error.message
                outcomes[key] = "refused"
        assert store.feature("audio/IS10").values().any()
        for use in (store.check, store.verify):
            with pytest.raises(UserError):
                use()
        if "IS10" in name:
            writer = StoreWriter(tmp_path / "c.h5", corpus="c", labels=store.labels, utterances=utterances)
            with pytest.raises(UserError), writer:
                writer.copy_feature(store.feature("audio/IS10"))
    assert [key for key, outcome in outcomes.items() if outcome == "refused"] == [used_by]
    result = CliRunner().invoke(main, ["info", str(store_path)])
    assert result.exit_code == 1 and result.stderr.startswith("Error: ") and str(store_path) in result.stderr


def test_columns_are_copies(store_path):
    with FeatureStore.open(store_path) as store:
        for name in ("text", "label"):
            before = store.column(name)
            store.column(name, slice(0, 5))[:] = 0
            assert (store.column(name) == before).all() and store.column(name, slice(40, 50)).tolist() == before[
                40:
            ].tolist()


def test_feature_names_have_two_parts(store_path):
    with FeatureStore.open(store_path) as store:
        for name in ("audio", "audio/", "/audio/IS10", "audio/IS10/details", "./IS10", "audio/.", "audio/..", ""):
            with pytest.raises(UserError, match="audio/IS10, text/org--name"):
                store.feature(name)


@pytest.mark.parametrize(
    "name, data",
    [
        ("utterances/label", np.full(45, 7, np.int32)),
        ("utterances/speaker", np.full(45, -1, np.int32)),
        ("utterances/start_s", np.zeros(44)),
        ("dialogues/offsets", np.arange(10)),
        ("features/audio/IS10/present", np.ones(45)),
        ("utterances/split", np.array([b"training"] * 45, dtype=object)),
    ],
)
def test_refuses_columns_out_of_range(store_path, name, data):
    dtype = h5py.string_dtype() if data.dtype == object else data.dtype
    replace(store_path, name, lambda f: f.create_dataset(name, data=data, dtype=dtype))
    refused(store_path)


def test_an_unknown_name_lists_the_available_ones(store_path):
    with FeatureStore.open(store_path) as store:
        for call in (lambda: store.feature("audio/x"), lambda: store.column("x"), lambda: store.rows("d99")):
            with pytest.raises(UserError):
                call()
        with pytest.raises(UserError, match="audio/IS10"):
            store.feature("audio/eGeMAPS")
