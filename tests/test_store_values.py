"""The layout of a store's matrices in the file: what is read from them, in either layout, and what is refused."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import struct

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_support import flip, in_chunks, place_of

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.store import FeaturePart, FeatureStore, StoreWriter, hdf5
from erc_toolkit.toolkit.store import values as store_values
from erc_toolkit.toolkit.store.values import Matrix, MatrixWriter, has_descriptor

AUDIO = "features/audio/IS10"
ROWS = 23  # of 700 numbers that share a checksum


def contents(path) -> dict[str, bytes]:
    with FeatureStore.open(path) as store:
        return {name: store.feature(name).values().tobytes() for name in store.feature_names()}


def test_both_layouts_have_the_same_content(store_path):
    new = contents(store_path)
    with FeatureStore.open(store_path) as store:
        slices = [store.feature("audio/IS10").values(rows).tobytes() for _, rows in store.dialogues()]
        store.verify()
    in_chunks(store_path)
    assert contents(store_path) == new
    with FeatureStore.open(store_path) as store:
        assert [store.feature("audio/IS10").values(rows).tobytes() for _, rows in store.dialogues()] == slices
        store.verify()  # the content hash was recorded for the other layout


def test_parts_of_any_size_are_the_same_file_content(tmp_path, utterances, monkeypatch):
    x = np.random.default_rng(1).normal(size=(45, 3)).astype(np.float32)
    monkeypatch.setattr(store_values, "BLOCK_BYTES", 5 * 12)
    hashes = set()
    for size in (1, 4, 5, 7, 45):
        with StoreWriter(tmp_path / "p.h5", corpus="x", labels=["joy", "sadness"], utterances=utterances) as writer:
            parts = (FeaturePart(i, x[i : i + size], [""] * len(x[i : i + size]), {}) for i in range(0, 45, size))
            writer.add_feature_parts("text", "x", 3, parts)
        with h5py.File(tmp_path / "p.h5") as file:
            sums = file["features/text/x/checksums"]
            hashes.add((sums.attrs["rows"].item(), sums[:].tobytes(), file.attrs["content_sha256"]))
        assert contents(tmp_path / "p.h5") == {"text/x": x.tobytes()}
    assert len(hashes) == 1


@pytest.mark.parametrize("layout", [lambda path: path, in_chunks])
def test_a_feature_is_copied_in_its_layout(tmp_path, store_path, utterances, layout):
    layout(store_path)
    with FeatureStore.open(store_path) as store:
        with StoreWriter(tmp_path / "copy.h5", corpus="small", labels=store.labels, utterances=utterances) as writer:
            for name in store.feature_names():
                writer.copy_feature(store.feature(name))
        with FeatureStore.open(tmp_path / "copy.h5") as copy:
            copy.verify()
            assert copy.content_hash == store.content_hash
    assert contents(tmp_path / "copy.h5") == contents(store_path)
    with h5py.File(store_path) as a, h5py.File(tmp_path / "copy.h5") as b:
        assert (
            (b[f"{AUDIO}/values"].chunks is None) == (a[f"{AUDIO}/values"].chunks is None) == ("checksums" in b[AUDIO])
        )


def test_damage_is_not_copied_into_a_valid_store(tmp_path, store_path, utterances):
    flip(store_path, place_of(store_path, f"{AUDIO}/values") + 5000)
    with FeatureStore.open(store_path) as store, pytest.raises(UserError, match="IS10/values"):
        with StoreWriter(tmp_path / "copy.h5", corpus="small", labels=store.labels, utterances=utterances) as writer:
            writer.copy_feature(store.feature("audio/IS10"))
    assert not (tmp_path / "copy.h5").exists()


@pytest.fixture(params=["descriptor", "HDF5"])
def way(request, monkeypatch):
    """How the bytes are read; the second is used on systems without file descriptors."""
    if request.param == "HDF5":
        monkeypatch.setattr(hdf5, "has_descriptor", lambda file: False)
        monkeypatch.setattr(os, "preadv", None)  # would raise if it were called
    return request.param


def test_every_block_is_checked_when_it_is_read(store_path, way):
    whole = contents(store_path)["audio/IS10"]
    place = place_of(store_path, f"{AUDIO}/values")
    for row in (0, 22, 23, 44):
        flip(store_path, place + 700 * 4 * row + 1234)
        with FeatureStore.open(store_path) as store:
            feature = store.feature("audio/IS10")
            for first in range(45):
                if first // ROWS == row // ROWS:
                    with pytest.raises(UserError, match=rf"audio/IS10/values .*rows .*\b{row // ROWS * ROWS}\b"):
                        feature.values(slice(first, first + 1))
                else:
                    assert feature.values(slice(first, first + 1)).tobytes() == whole[2800 * first : 2800 * (first + 1)]
            with pytest.raises(UserError, match="audio/IS10/values"):
                feature.values()
            with pytest.raises(UserError, match="audio/IS10/values"):
                store.verify()
        flip(store_path, place + 700 * 4 * row + 1234)
    assert contents(store_path)["audio/IS10"] == whole


def test_a_damaged_checksum_is_noticed(store_path, way):
    flip(store_path, place_of(store_path, f"{AUDIO}/checksums") + 8)
    with FeatureStore.open(store_path) as store:
        assert store.feature("audio/IS10").values(slice(0, ROWS)).shape == (ROWS, 700)
        for read in (store.feature("audio/IS10").values, store.verify):
            with pytest.raises(UserError, match="audio/IS10/values"):
                read()


def test_which_files_are_read_by_their_descriptor(store_path):
    kinds = (({}, True), ({"driver": "core"}, False), ({"driver": "stdio"}, False), ({"mode": "r+"}, False))
    for options, expected in kinds:
        with h5py.File(store_path, **({"mode": "r"} | options)) as file:
            assert has_descriptor(file) is expected
            with h5py.File(store_path) if expected else file as again:
                checked = hdf5.StoreFile(store_path, again)
                assert checked.matrix(AUDIO, 45).read().tobytes() == file[f"{AUDIO}/values"][:].tobytes()


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_slice_of_any_shape_is_as_in_numpy(tmp_path_factory, data):
    n, dim = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 40))
    x = np.random.default_rng(n).normal(size=(n, dim)).astype(np.float32)
    path = tmp_path_factory.mktemp("any") / "x.h5"
    with pytest.MonkeyPatch.context() as patch:
        for name, most in (("BLOCK_BYTES", 800), ("_READ_BYTES", 2000), ("_LARGE_PAGE", 8192)):
            patch.setattr(
                store_values,
                name,
                4096 if name == "_LARGE_PAGE" else data.draw(st.integers(1, most)),
            )
        with h5py.File(path, "w") as file:
            file["before"] = np.zeros(data.draw(st.integers(1, 9)), np.uint8)
            writer = MatrixWriter(file.create_group("f"), x.shape)
            cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=4)))
            for first, last in itertools.pairwise([0, *cuts, n]):
                writer.append(x[first:last])
            writer.end()
        with h5py.File(path) as file:
            matrix = hdf5.StoreFile(path, file).matrix("f", n)
            numbers = st.none() | st.integers(-n - 3, n + 3)
            for _ in range(8):
                rows = slice(
                    data.draw(numbers), data.draw(numbers), data.draw(st.none() | st.integers(-5, 5).filter(bool))
                )
                given_rows = matrix.read(rows)
                assert (
                    given_rows.dtype == np.float32
                    and given_rows.shape == x[rows].shape
                    and (given_rows == x[rows]).all()
                )
                given_rows[:] = 7  # a copy


def test_a_large_matrix(tmp_path):
    """Larger than a large page and than the size of a read."""
    x = np.random.default_rng(0).random((3001, 601), np.float32)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        writer = MatrixWriter(file.create_group("f"), x.shape)
        writer.append(x)
        writer.end()
    with h5py.File(tmp_path / "x.h5") as file:
        matrix = hdf5.StoreFile(tmp_path / "x.h5", file).matrix("f", len(x))
        for rows in (slice(None), slice(1000, 3001), slice(5, 2000), slice(2999, None), slice(None, None, 7)):
            assert (matrix.read(rows) == x[rows]).all()
        assert matrix.read(slice(10, 11)).base is None  # one row does not keep its block


def reads(feature, expected: bytes, queue) -> None:
    queue.put(all(feature.values().tobytes() == expected for _ in range(20)))


def opens(path, expected: dict[str, bytes], queue) -> None:
    queue.put(contents(path) == expected)


def test_processes_read_concurrently(store_path):
    expected = contents(store_path)
    fork, spawn = (multiprocessing.get_context(how) for how in ("fork", "spawn"))
    with FeatureStore.open(store_path) as store:
        feature = store.feature("audio/IS10")
        queues = [fork.SimpleQueue(), fork.SimpleQueue(), spawn.SimpleQueue()]
        processes = [fork.Process(target=reads, args=(feature, expected["audio/IS10"], queue)) for queue in queues[:2]]
        processes.append(spawn.Process(target=opens, args=(store_path, expected, queues[2])))
        for process in processes:
            process.start()
        assert all(feature.values().tobytes() == expected["audio/IS10"] for _ in range(20))
        assert [queue.get() for queue in queues] == [True] * 3
        for process in processes:
            process.join()


def test_a_file_that_shrinks_or_closes_while_it_is_read(store_path):
    store = FeatureStore.open(store_path)
    feature = store.feature("audio/IS10")
    os.truncate(store_path, place_of(store_path, f"{AUDIO}/values") + 70_000)
    assert feature.values(slice(0, ROWS)).any()
    with pytest.raises(UserError, match="IS10/values"):
        feature.values()
    store.close()
    with pytest.raises(ValueError):
        feature.values(slice(0, ROWS))


def layout_at(path, name: str) -> int:
    """The position in the file of the address of a contiguous matrix."""
    with h5py.File(path) as file:
        where = struct.pack("<QQ", file[name].id.get_offset(), file[name].nbytes)
    assert path.read_bytes().count(where) == 1
    return path.read_bytes().find(where)


@pytest.mark.parametrize("place", ["header", "other rows", "over the end", "past the end", "far"])
def test_a_matrix_that_points_elsewhere(store_path, place, way):
    at, size = layout_at(store_path, f"{AUDIO}/values"), store_path.stat().st_size
    here = place_of(store_path, f"{AUDIO}/values")
    to = {"header": 0, "other rows": here + 2800, "over the end": size - 2800, "past the end": size, "far": 1 << 62}[
        place
    ]
    with open(store_path, "r+b") as file:
        file.seek(at)
        file.write(struct.pack("<Q", to))
    with FeatureStore.open(store_path) as store, pytest.raises(UserError) as error:
        store.feature("audio/IS10").values()
    assert str(store_path) in error.value.message
    with pytest.raises(UserError), FeatureStore.open(store_path) as store:
        store.verify()


def remake(path, **options) -> None:
    """Stores the audio matrix in another HDF5 layout, keeping its checksums."""
    with h5py.File(path, "r+") as file:
        values = file[f"{AUDIO}/values"][:]
        del file[f"{AUDIO}/values"]
        file.create_dataset(f"{AUDIO}/values", **({"data": values} | options))


def test_checksums_are_valid_for_a_repacked_matrix(store_path):
    before = contents(store_path)
    for options in ({"chunks": (7, 100)}, {"chunks": True, "compression": "gzip"}):
        remake(store_path, **options)
        assert contents(store_path) == before
    remake(store_path, chunks=(45, 700))
    flip(store_path, place_of(store_path, f"{AUDIO}/values") + 9)
    with FeatureStore.open(store_path) as store, pytest.raises(UserError, match="audio/IS10/values"):
        store.feature("audio/IS10").values()


@pytest.mark.parametrize(
    "spoil, fact",
    [
        (lambda group: group.__delitem__("checksums"), "IS10/values has no checksums"),
        (lambda group: group["checksums"].attrs.__delitem__("rows"), "rows"),
        (lambda group: group["checksums"].attrs.__setitem__("rows", 0), "45 rows"),
        (lambda group: group["checksums"].attrs.__setitem__("rows", -1), "45 rows"),
        (lambda group: group["checksums"].attrs.__setitem__("rows", 22), "45 rows"),
        (lambda group: group["checksums"].attrs.__setitem__("rows", 23.0), "45 rows"),
        (lambda group: group["checksums"].attrs.__setitem__("rows", [23]), "45 rows"),
        (lambda group: group["checksums"].attrs.__setitem__("rows", "23"), "45 rows"),
        (lambda group: swap(group, "checksums", data=np.zeros(3, "<u8")), "45 rows"),
        (lambda group: swap(group, "checksums", data=np.zeros(2, "<i8")), "int64"),
        (lambda group: swap(group, "checksums", data=np.zeros(2, ">u8")), ">u8"),
        (lambda group: swap(group, "checksums", data=np.zeros((2, 1), "<u8")), "(2, 1)"),
        (lambda group: swap(group, "checksums", shape=(2,), dtype="<u8"), "IS10/checksums claims 16 bytes"),
        (lambda group: swap(group, "values", data=np.zeros((45, 700), ">f4")), ">f4"),
        (lambda group: swap(group, "values", data=np.zeros((45, 700), "<f8")), "float64"),
        (lambda group: swap(group, "values", shape=(45, 700), dtype="<f4"), "IS10/values claims 126,000 bytes"),
        (lambda group: swap(group, "values", shape=(45, 4), dtype="<f4"), "IS10/values claims 720 bytes"),
        (
            lambda group: group.move("checksums", "kept") or group.__setitem__("checksums", h5py.SoftLink("kept")),
            "IS10/checksums",
        ),
    ],
)
def test_refuses_a_matrix_not_written_by_the_toolkit(store_path, spoil, fact):
    with h5py.File(store_path, "r+") as file:
        spoil(file[AUDIO])
    with FeatureStore.open(store_path) as store:
        for use in (lambda: store.feature("audio/IS10").values(), store.check, store.verify):
            with pytest.raises(UserError) as error:
                use()
            assert fact in error.value.message and str(store_path) in error.value.message
        assert store.feature("text/org--name").values().shape == (45, 8)


def swap(group, name: str, **options) -> None:
    del group[name]
    dataset = group.create_dataset(name, **options)
    if name == "checksums":
        dataset.attrs["rows"] = ROWS


def test_an_empty_or_unfinished_matrix_is_not_written(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        with pytest.raises(ValueError, match=r"/a: .*\(5, 0\)"):
            MatrixWriter(file.create_group("a"), (5, 0))
        writer = MatrixWriter(file.create_group("b"), (5, 2))
        writer.append(np.zeros((4, 2)))
        with pytest.raises(ValueError, match="/b: 4 of 5 rows"):
            writer.end()
        assert "checksums" not in file["b"]


def test_a_matrix_knows_its_shape(store_path):
    with h5py.File(store_path) as file:
        matrix = hdf5.StoreFile(store_path, file).matrix(AUDIO, 45)
        assert isinstance(matrix, Matrix) and matrix.shape == (45, 700)
