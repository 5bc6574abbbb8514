"""Damaged stores: no flipped bit hangs or ends a reader, changes what it returns unnoticed, or costs a traceback."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest
from click.testing import CliRunner
from damage_support import BARE, DIED, HUNG, REFUSED, SAME, WRONG, everything, outcomes, varied_store
from store_support import as_earlier, flip, in_chunks, unseal

from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.manifest import Utterance
from erc_toolkit.toolkit.store import FeatureStore, StoreWriter, structure
from erc_toolkit.toolkit.store.format import attributes_hash


@pytest.fixture
def store(tmp_path) -> Path:
    return varied_store(tmp_path / "varied.h5")


@pytest.fixture
def soon(monkeypatch) -> None:
    """Files that hang are given up after a second."""
    monkeypatch.setattr(structure, "LIMIT", 1.0)


def info(path: Path, *options: str, code: int) -> str:
    result = CliRunner().invoke(main, ["info", str(path), *options], catch_exceptions=False)
    assert result.exit_code == code and "Traceback" not in result.output, result.output
    return result.output


def used_bytes(data: bytes) -> list[int]:
    """Positions that are not in the middle of the zeros with which HDF5 fills chunks."""
    return [i for i in range(len(data)) if any(data[max(0, i - 12) : i + 12])]


def heap_objects(data: bytes) -> list[int]:
    """Positions of the sizes of the objects in the file's global heap, which has no checksum in any HDF5 format."""
    found, at = [], data.find(b"GCOL")
    while at >= 0:
        place, end = at + 16, at + int.from_bytes(data[at + 8 : at + 16], "little")
        while place + 16 <= end and int.from_bytes(data[place : place + 2], "little"):
            size = int.from_bytes(data[place + 8 : place + 16], "little")
            found.append(place + 8)
            place += 16 + size + -size % 8
        at = data.find(b"GCOL", at + 1)
    return found


def test_bits_that_hung_readers(store, tmp_path, soon):
    """In the second byte of an object's size: some of them make HDF5 loop for ever, others return another text."""
    places = heap_objects(store.read_bytes())
    bits = [8 * (places[number] + 1) + bit for number in (0, 3, 10, 12, 29, 31) for bit in range(4)]
    found = Counter(kind for _, kind, _ in outcomes(store, bits, tmp_path / "flipped.h5"))
    assert set(found) <= {SAME, REFUSED} and found[REFUSED] > 12


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("verify", [False, True])
def test_any_flipped_bit(store, tmp_path, soon, verify):
    data = store.read_bytes()
    drawn = random.Random(19)
    bits = [8 * i + drawn.randrange(8) for i in drawn.sample(used_bytes(data), 200)]
    found = list(outcomes(store, bits, tmp_path / "flipped.h5", verify))
    assert not [one for one in found if one[1] in (WRONG, BARE, HUNG, DIED)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("layout", [as_earlier, lambda path: in_chunks(as_earlier(path))])
def test_any_flipped_bit_of_a_store_of_an_earlier_version(store, tmp_path, soon, layout):
    """Its structure has no checksums: a reader may return something else, but neither hangs nor crashes."""
    data = layout(store).read_bytes()
    drawn = random.Random(19)
    bits = [8 * i + drawn.randrange(8) for i in drawn.sample(used_bytes(data), 200)]
    found = list(outcomes(store, bits, tmp_path / "flipped.h5"))
    assert not [one for one in found if one[1] in (BARE, HUNG, DIED)]


def hang(path: Path) -> Path:
    """A copy on which HDF5 loops for ever: with its head, an object of this size has 0 bytes."""
    data = bytearray(path.read_bytes())
    place = heap_objects(data)[0]
    data[place : place + 8] = (2**64 - 16).to_bytes(8, "little")
    path.with_name("hangs.h5").write_bytes(data)
    return path.with_name("hangs.h5")


def test_a_file_that_hangs_costs_one_line_and_no_process(store, soon):
    flipped = hang(store)
    for options in ((), ("--verify",)):
        output = info(flipped, *options, code=1)
        assert str(flipped) in output and "damaged feature store" in output and output.count("\n") == 1
    assert not multiprocessing.active_children()
    assert psutil.STATUS_ZOMBIE not in [child.status() for child in psutil.Process().children()]
    if sys.platform == "linux":
        assert structure._in_an_interpreter(flipped)  # what other systems do


def test_the_other_way_to_check(store):
    assert structure._in_an_interpreter(store) == ""


def test_an_interrupt_ends_the_check(store):
    """SIGINT while the child hangs: the reader ends at once, and the child with it."""
    flipped = hang(store)
    code = (
        "import sys\nfrom erc_toolkit.toolkit.store import FeatureStore\nprint('ready', flush=True)\n"
        "FeatureStore.open(sys.argv[1])\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, flipped], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    child = _wait_for(lambda: _children(process.pid))
    began = time.monotonic()
    process.send_signal(2)
    process.communicate(timeout=20)
    assert time.monotonic() - began < 15  # the check alone would take 30 s
    _wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in child))


def _children(pid: int) -> list[int]:
    try:
        return [int(part) for part in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _wait_for(found):
    for _ in range(400):
        if result := found():
            return result
        time.sleep(0.05)
    raise AssertionError("it does not happen")


def test_each_file_is_checked_once(store, monkeypatch):
    checked = []
    monkeypatch.setattr(structure, "_in_a_fork", lambda path: checked.append(path) or "")
    monkeypatch.setattr(structure, "_in_an_interpreter", lambda path: checked.append(path) or "")
    FeatureStore.open(store).close()
    assert checked == []  # this process wrote it
    copy = Path(shutil.copy(store, store.with_name("copy.h5")))
    for _ in range(3):
        FeatureStore.open(copy).close()
    assert checked == [copy]
    flip(copy, 3000)
    flip(copy, 3000)
    FeatureStore.open(copy).close()
    assert checked == [copy, copy]


def test_a_process_with_threads_may_check(store):
    """A fork of a process whose other threads compute and read other stores."""
    import torch

    copies = [Path(shutil.copy(store, store.with_name(f"{i}.h5"))) for i in range(8)]
    expected, ended, results = everything(store), threading.Event(), []

    def compute() -> None:
        while not ended.is_set():
            torch.ones(200, 200) @ torch.ones(200, 200)

    others = [threading.Thread(target=compute) for _ in range(2)]
    readers = [threading.Thread(target=lambda path=path: results.append(everything(path))) for path in copies]
    for thread in (*others, *readers):
        thread.start()
    for thread in readers:
        thread.join(60)
    ended.set()
    for thread in others:
        thread.join()
    assert results == [expected] * len(copies)


def changed(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert data.count(old) >= 1 and len(old) == len(new)
    path.write_bytes(data.replace(old, new))
    return path


@pytest.mark.parametrize("old, new", [(b"anger", b"alger"), (b"small", b"smell"), (b'{"seed": 0}', b'{"seed": 8}')])
def test_every_attribute_is_covered(store, old, new):
    """Among them a label's name, which no checksum covered."""
    changed(store, old, new)
    assert "attributes of /" in info(store, code=1)
    assert "attributes of /" in info(store, "--verify", code=1)


@pytest.mark.parametrize("old, new", [(b"ComParE", b"ComQarE"), (b"seconds", b"secondz"), (b"labels", b"lavels")])
def test_names_are_covered(store, old, new):
    """HDF5's own checksums find a changed name of a feature, dataset or attribute."""
    changed(store, old, new)
    info(store, code=1)


@pytest.mark.parametrize("old, new", [(b"ComParE", b"ComQarE"), (b"seconds", b"secondz")])
def test_names_in_a_store_of_an_earlier_version(store, old, new):
    changed(as_earlier(store), old, new)
    info(store, code=0)
    assert "content hash" in info(store, "--verify", code=1)


def test_a_store_of_an_earlier_version_says_what_is_not_covered(store):
    assert "no checksum" not in info(store, "--verify", code=0)
    with FeatureStore.open(store) as opened:
        content = opened.content_hash
    before = everything(store)
    unseal(store)
    assert "attributes" in info(store, "--verify", code=0) and everything(store) == before
    output = info(as_earlier(store), "--verify", code=0)
    assert "have no checksum" in output and everything(store) == before
    with FeatureStore.open(store) as opened:
        assert opened.content_hash == content and not opened.attributes_covered


def test_the_documented_way_to_recompute_an_attribute_checksum(store):
    page = (Path(__file__).parents[1] / "docs/reference/store.md").read_text("utf-8")
    code = re.search(r"```python\n(attrs = .*?)```", page, re.DOTALL)[1].replace("IS10", "ComParE")
    found = []
    for change in ({}, {"layer": 3}):
        with h5py.File(store, "r+") as file:
            file["features/audio/ComParE"].attrs.update(change)
            names = {"f": file, "json": json, "hashlib": hashlib}
            exec(code, names)
            found.append(names["same"])
    assert found == [True, False]
    assert attributes_hash({"b": [1, 2.5], "a": "é"}) == attributes_hash(json.loads('{"a": "é", "b": [1, 2.5]}'))


def test_a_copied_feature_is_covered(store, tmp_path):
    """Also one from a store of an earlier version."""
    as_earlier(store)
    with FeatureStore.open(store) as source:
        utterances = [
            Utterance(str(i), name, i, "A", "t", None, "train")
            for name, rows in source.dialogues()
            for i in range(rows.start, rows.stop)
        ]
        with StoreWriter(tmp_path / "copy.h5", corpus="c", labels=["joy"], utterances=utterances) as writer:
            writer.copy_feature(source.feature("audio/ComParE"))
    with FeatureStore.open(tmp_path / "copy.h5") as copy:
        assert copy.attributes_covered and copy.feature("audio/ComParE").attrs["layer"] == 2


def replaced(path: Path, name: str, **options) -> Path:
    with h5py.File(path, "r+") as file:
        del file[name]
        file.create_dataset(name, **options)
    return path


def test_a_compressed_dataset_claims_a_bounded_amount(store):
    """A hundred megabytes of zeros compress to a hundred kilobytes."""
    name = "features/audio/ComParE/details/seconds"
    zeros = {"shape": (12, 1 << 20), "dtype": "f8", "chunks": (1, 1 << 20), "fillvalue": 0.0, "compression": "gzip"}
    with h5py.File(store, "r+") as file:
        del file[name]
        made = file.create_dataset(name, **zeros)
        made[:] = 0
    assert store.stat().st_size < 2_000_000
    output = info(store, code=1)
    assert f"/{name} claims 100,663,296 bytes" in output and "h5repack" in output and output.count("\n") == 1


def test_small_compressed_datasets_are_read(store):
    name = "features/audio/ComParE/details/seconds"
    before = everything(store)
    replaced(store, name, data=np.arange(12) / 10, chunks=(12,), compression="gzip", shuffle=True, fletcher32=True)
    assert everything(store) == before
