"""`convert` reads what people really have under the name of a pickle, or says what it is and what to do."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import zipfile

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.exchange.convert import convert
from erc_toolkit.toolkit.exchange.pickles import opening
from erc_toolkit.toolkit.exchange.unpickle import load_pickle

CONTENT = {"a": ["x", "café", 1.5], "array": np.arange(500.0).reshape(5, 100), "text": "one\ntwo\n"}


def saved(value, **options) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def loaded(tmp_path, data: bytes, notes: list[str] | None = None):
    (tmp_path / "x.pkl").write_bytes(data)
    return load_pickle(tmp_path / "x.pkl", notes)


def same(found) -> bool:
    return {**found, "array": 0} == {**CONTENT, "array": 0} and np.array_equal(found["array"], CONTENT["array"])


@pytest.mark.parametrize(
    "pack", [gzip.compress, bz2.compress, lzma.compress, lambda d: lzma.compress(d, lzma.FORMAT_ALONE)]
)
def test_compressed_pickles_are_read(pack, tmp_path):
    notes: list[str] = []
    assert same(loaded(tmp_path, pack(pickle.dumps(CONTENT)), notes))
    assert len(notes) == 1 and notes[0].startswith("x.pkl: ")
    with pytest.raises(UserError, match=r"x\.pkl: .*(ends too early|damaged)"):
        loaded(tmp_path, pack(pickle.dumps(CONTENT))[:-20])


def test_a_compressed_bomb_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(opening, "SPARE", 1 << 20)
    with pytest.raises(UserError, match="far more than its size justifies"):
        loaded(tmp_path, gzip.compress(b"\x80\x04" + b"(" * 8_000_000))


TENSORS = {
    "transposed": torch.arange(6.0).reshape(2, 3).T,
    "view": torch.arange(10)[3:6],
    "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "bool": torch.tensor([True, False]),
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 3),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


@pytest.mark.parametrize(
    "data",
    [
        saved({**TENSORS, "plain": CONTENT}),
        saved({**TENSORS, "plain": CONTENT}, _use_new_zipfile_serialization=False),
        pickle.dumps({**TENSORS, "plain": CONTENT}),
        pickle.dumps({**TENSORS, "plain": CONTENT}, protocol=2),
        gzip.compress(saved({**TENSORS, "plain": CONTENT})),
    ],
    ids=["archive", "legacy", "pickle", "pickle 2", "archive in gzip"],
)
def test_tensors_become_arrays(data, tmp_path):
    found = loaded(tmp_path, data)
    assert same(found["plain"])
    for name, tensor in TENSORS.items():
        right = tensor.detach().float().numpy() if name == "half" else tensor.detach().numpy()
        assert np.array_equal(found[name], right) and found[name].dtype == right.dtype, name


def test_hostile_files_of_torch_save(tmp_path):
    plain = saved({"x": torch.arange(100.0)})
    legacy = saved({"x": torch.arange(100.0)}, _use_new_zipfile_serialization=False)
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(plain)) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    huge = pickle.dumps(torch.zeros(2)).replace(b"K\x02\x85", b"J\xff\xff\xff\x7f\x85")
    for data, wanted in (
        (plain[:-60], "incomplete"),
        (legacy[:-60], "incomplete"),
        (packed.getvalue(), "compressed again"),
        (huge, "larger than its data"),
        (saved(torch.nn.Linear(1, 1)), "torch.nn"),
    ):
        with pytest.raises(UserError, match=rf"x\.pkl: .*{wanted}") as error:
            loaded(tmp_path, data)
        assert "\n" not in error.value.message


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_changed_line_ends_are_changed_back(protocol, tmp_path):
    plain = {"a": ["x", "y"], "b": [1, 2.5], "n": np.arange(3.0)} if protocol else {"a": ["x", "y"], "b": [1, 2.5]}
    data = pickle.dumps(plain, protocol=protocol)
    data = data if b"\n" in data else pickle.dumps({**plain, "t": "a\nb\n"}, protocol=protocol)
    notes: list[str] = []
    assert b"\r\n" not in data
    found = loaded(tmp_path, data.replace(b"\n", b"\r\n"), notes)
    assert found["a"] == ["x", "y"] and found["b"] == [1, 2.5] and any("CR LF" in note for note in notes)


def test_changed_line_ends_beyond_repair_are_named(tmp_path):
    """The file contained CR LF of its own."""
    data = pickle.dumps({"t": "a\r\nb\nc"}, protocol=4).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    with pytest.raises(UserError, match=r"x\.pkl: .*CR LF.*binary"):
        loaded(tmp_path, data)


WRONG = {
    "empty": (b"", "empty file"),
    "zeros": (bytes(100), "zero bytes"),
    "cut": (pickle.dumps(CONTENT)[:-30], "ends too early"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "git lfs pull"),
    "html": (b"<!DOCTYPE html><html><head><title>Google Drive", "HTML page"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(40), "zstd -d"),
    "zip": (b"PK\x03\x04" + bytes(26) + b"a.pkl", "ZIP archive"),
    "tar in gzip": (gzip.compress(bytes(257) + b"ustar" + bytes(200)), "gzip file that contains a tar archive"),
    "gzip in gzip": (gzip.compress(gzip.compress(b"x")), "contains a gzip file"),
    "json": (b'{"a": [1, 2]}', "JSON"),
    "csv": (b"id,label\nu1,joy\n", "table"),
    "text": (b"see the readme\n", "text file"),
    "utf8": (pickle.dumps(CONTENT, protocol=2).decode("latin-1").encode(), "UTF-8"),
    "joblib": (b"\x80\x04cjoblib.numpy_pickle\nNumpyArrayWrapper\n.", "joblib.load"),
    "pandas": (b"\x80\x04cpandas.core.frame\nDataFrame\n.", "to_numpy"),
    "scipy": (b"\x80\x04cscipy.sparse._csr\ncsr_matrix\n.", "toarray"),
    "zlib": (bytes.fromhex("789c4b04000062 0062".replace(" ", "")), "joblib"),
    "encrypted": (b"Salted__" + bytes(20), "decrypt"),
}


@pytest.mark.parametrize("name", WRONG)
def test_other_files_are_named_with_the_remedy(name, tmp_path):
    data, wanted = WRONG[name]
    with pytest.raises(UserError, match=rf"x\.pkl: .*{wanted}") as error:
        loaded(tmp_path, data)
    assert "\n" not in error.value.message and "run any program" not in error.value.message


def test_arrays_are_recognised_by_content(tmp_path):
    (tmp_path / "m.csv").write_text("id,label\nu0,joy\nu1,joy\n")
    np.save(tmp_path / "x.npy", np.ones((2, 3)))
    (tmp_path / "x.npy").rename(tmp_path / "text.pkl")
    (tmp_path / "audio.npy").write_bytes(pickle.dumps({"u0": np.ones(2), "u1": np.ones(2)}))
    torch.save({"u0": torch.ones(2)}, tmp_path / "visual.pt")
    files = [str(tmp_path / name) for name in ("text.pkl", "audio.npy", "visual.pt")]
    result = CliRunner().invoke(
        main, ["convert", *files, "--manifest", str(tmp_path / "m.csv"), "--out", str(tmp_path / "x.h5")]
    )
    assert result.exit_code == 0, result.output
    assert "text/converted: 3 dim" in result.output and "visual/converted: 2 dimensions, present in 1" in result.output


@pytest.mark.parametrize("number", ["", "-"])
def test_numbers_of_thousands_of_digits_are_one_line_or_a_note(number, tmp_path):
    number = -(10**5000) if number else 10**5000
    one = {number: [number]}
    tuple_ = ({number: ["A"]}, {number: [0]}, {number: [[1.0]]}, {number: ["x"]}, [number], [])
    fine = ({"d": ["A"]}, {"d": [0]}, {"d": [[1.0, 2.0]]}, {"d": ["x"]}, ["d", number], [])
    split = {"train": {"id": [number, "b"], "classification_labels": [number, 0], "text": np.ones((2, 3))}}
    path, done = tmp_path / "x.pkl", []
    for value in (number, one, tuple_, {"train": {number: 1}}, {"train": {"labels": [number]}}, fine, split):
        path.write_bytes(pickle.dumps(value))
        try:
            convert([str(path)], tmp_path / "x.h5")
            done.append(value)
        except UserError as error:
            assert str(path) in error.message and "\n" not in error.message
    assert done == [fine, split]
    path.write_bytes(pickle.dumps(one))
    result = CliRunner().invoke(main, ["convert", str(path), "--out", str(tmp_path / "x.h5")])
    assert result.exit_code == 1 and result.output.count("\n") == 1
