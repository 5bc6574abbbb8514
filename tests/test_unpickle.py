"""Untrusted pickles: allowed content is read, anything else is refused before it runs, and resources are limited."""

from __future__ import annotations

import collections
import json
import multiprocessing.spawn
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.exchange import confined
from erc_toolkit.toolkit.exchange.unpickle import load_pickle
from erc_toolkit.toolkit.store import FeatureStore


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def named(module: str, name: str) -> bytes:
    """Pushes module.name (protocol 4)."""
    return short(module) + short(name) + b"\x93"


class Reduced:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(canary: str) -> dict[str, bytes]:
    """Pickles that would create the file `canary` if they were executed, or that use what is not allowed."""
    touch = f"touch {canary}"
    head, reconstruct = b"\x80\x04", named("numpy.core.multiarray", "_reconstruct")
    array = reconstruct + named("numpy", "ndarray") + b"K\x00\x85" + b"C\x01b" + b"\x87R"
    plain = pickle.dumps(np.zeros(3), protocol=2)
    return {
        "os.system": pickle.dumps(Reduced(os.system, touch)),
        "text protocol": f"cposix\nsystem\n(S'{touch}'\ntR.".encode(),
        "eval": pickle.dumps(Reduced(eval, f"open({canary!r}, 'w')")),
        "exec": pickle.dumps(Reduced(exec, f"open({canary!r}, 'w')")),
        "subprocess": pickle.dumps(Reduced(subprocess.Popen, ["touch", canary])),
        "in a list": pickle.dumps({"a": [1, (Reduced(os.system, touch), 2)]}),
        "nested reducers": pickle.dumps(Reduced(getattr, Reduced(__import__, "os"), "system")),
        "as an array's object": pickle.dumps(np.array([Reduced(os.system, touch), None], object)),
        "INST": f"(S'{touch}'\niposix\nsystem\n.".encode(),
        "OBJ": head + b"(" + named("posix", "system") + short(touch) + b"o.",
        "NEWOBJ": head + named("subprocess", "Popen") + short(touch) + b"\x85\x81.",
        "NEWOBJ_EX": head + named("subprocess", "Popen") + short(touch) + b"\x85}\x92.",
        "dotted name": head + named("numpy.core.multiarray", "_reconstruct.__globals__") + b".",
        "names a module within": head + named("erc_toolkit.toolkit.exchange.unpickle", "pickle.loads") + b".",
        "numpy's own loader": head + named("numpy", "load") + short(canary) + b"\x85R.",
        "numpy's tester": head + named("numpy.testing._private.utils", "runstring") + short("x=1") + b"}\x86R.",
        "extension registry": head + b"\x82\x01.",
        "persistent id": head + short(canary) + b"Q.",
        "attributes of a function": head + reconstruct + b"}" + short("__defaults__") + b"K\x01sb.",
        "attributes by slots": head + reconstruct + b"N}" + short("_call") + named("numpy", "dtype") + b"s\x86b.",
        "calls ndarray": head + named("numpy", "ndarray") + b"\x8a\x06\x00\x00\x00\x00\x00\x7f\x85\x85R.",
        "subclass of ndarray": head + reconstruct + named("numpy", "matrix") + b"K\x00\x85C\x01b\x87R.",
        "huge empty array": head
        + reconstruct
        + named("numpy", "ndarray")
        + b"\x8a\x06\x00\x00\x00\x00\x00\x7f\x85C\x01b\x87R.",
        "array state no tuple": head + array + b"K\x01b.",
        "more than its bytes": plain.replace(b"K\x03\x85", b"M\xff\xff\x85"),
        "records": pickle.dumps(np.zeros(2, [("a", "f4")])),
        "dates": pickle.dumps(np.zeros(2, "M8[s]")),
        "codec": head + named("_codecs", "encode") + short("x") + short("zlib_codec") + b"\x86R.",
        "codec of a module": head + named("_codecs", "encode") + short("x") + short("aliases") + b"\x86R.",
        "scalar of an object": head
        + named("numpy.core.multiarray", "scalar")
        + named("numpy", "dtype")
        + b"C\x01O\x88\x86R.",
        "a set of a call": head + named("builtins", "set") + named("posix", "system") + b"\x85R.",
        "list called": head + named("builtins", "list") + b"]\x85R.",
        "range": head + named("builtins", "range") + b"J\xff\xff\xff\x7f\x85R.",
        "bytearray": head + named("builtins", "bytearray") + b"J\xff\xff\xff\x7f\x85R.",
        "torch tensor": head + named("torch._utils", "_rebuild_tensor_v2") + b")R.",
        "pandas": head + named("pandas.core.frame", "DataFrame") + b")R.",
    }


@pytest.mark.parametrize("trick", list(hostile("x")))
def test_nothing_hostile_runs(trick, tmp_path):
    canary = tmp_path / "canary"
    path = tmp_path / "hostile.pkl"
    path.write_bytes(hostile(str(canary))[trick])
    with pytest.raises(UserError) as error:
        load_pickle(path)
    assert str(path) in error.value.message and "\n" not in error.value.message and not canary.exists()


@pytest.mark.parametrize(
    "name, wanted",
    [("os.system", "system"), ("torch tensor", "torch._utils._rebuild_tensor_v2"), ("eval", "builtins.eval")],
)
def test_what_is_refused_is_named(name, wanted, tmp_path):
    path = tmp_path / "hostile.pkl"
    path.write_bytes(hostile("x")[name])
    with pytest.raises(UserError, match=r"hostile\.pkl: .*" + wanted):
        load_pickle(path)


def laughs(levels: int) -> bytes:
    """A list of ten lists of ten lists …, by reference: 10 to the power of `levels` elements in a few bytes."""
    body = b"]" + b"(" + b"K\x01" * 10 + b"e\x94"
    for level in range(levels):
        body += b"0](" + b"h" + bytes([level]) + (b"h" + bytes([level])) * 9 + b"e\x94"
    return body


def bombs() -> dict[str, bytes]:
    key = b"K\x01\x85\x94" + b"".join(b"0h" + bytes([i]) + b"h" + bytes([i]) + b"\x86\x94" for i in range(60))
    text = b"X" + struct.pack("<i", 200_000) + b"a" * 200_000 + b"\x94("
    copies = (
        text
        + b"".join(named("_codecs", "encode") + b"h\x00" + short("latin1") + b"\x86R" for _ in range(30_000))
        + b"l."
    )
    laugh: list = [1.0] * 10
    for _ in range(9):
        laugh = [laugh] * 10
    two = {"d": [0], "e": [0]}
    features = (
        {"d": ["A"], "e": ["A"]},
        two,
        {"d": [[1.0, 2.0]], "e": [laugh]},
        {"d": ["x"], "e": ["y"]},
        ["d", "e"],
        [],
    )
    return {
        "bytes of 2^62": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".",
        "text of 2^40": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b".",
        "frame of 2^60": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
        "number of 2^31 bytes": b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1) + b".",
        "memo at 2^32": b"\x80\x04Nr\xff\xff\xff\xff.",
        "billion laughs": b"\x80\x04" + laughs(12) + b".",
        "laughs as a feature": pickle.dumps(features, protocol=4),
        "hash of nested tuples": b"\x80\x04" + key + b"}h\x3cK\x01s.",
        "copies of a text": b"\x80\x04" + copies,
        "a million lists in each other": b"\x80\x04" + b"]" * 1_000_000 + b"a" * 999_999 + b".",
        "a million tuples in each other": b"\x80\x04)" + b"\x85" * 1_000_000 + b".",
    }


@pytest.mark.slow
def test_bombs_end_in_one_line_and_little_memory(tmp_path):
    """Each runs in the confined process, whose peak memory is that of a harmless file plus what is granted."""
    spare = 256
    harmless = ({"d": ["A"]}, {"d": [0]}, {"d": [[1.0, 2.0]]}, {"d": ["x"]}, ["d"], [])
    files = [pickle.dumps(harmless, protocol=4), *bombs().values()]
    for i, data in enumerate(files):
        (tmp_path / f"{i}.pkl").write_bytes(data)
    code = (
        "import json, resource, sys\n"
        "from pathlib import Path\n"
        "from erc_toolkit.toolkit.base.errors import UserError\n"
        "from erc_toolkit.toolkit.exchange import confined\n"
        "confined.SECONDS, confined.MEMORY_SPARE = 10, int(sys.argv[2]) << 20\n"
        "for path in sorted(Path(sys.argv[1]).glob('*.pkl'), key=lambda p: int(p.stem)):\n"
        "    message = None\n"
        "    try: confined.convert_confined([str(path)], path.with_suffix('.h5'))\n"
        "    except UserError as error: message = error.message\n"
        "    print(json.dumps([message, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), str(spare)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (refused, before), *found = [json.loads(line) for line in done.stdout.splitlines()]
    converted = [name for name, (message, _) in zip(bombs(), found, strict=True) if message is None]
    assert refused is None and converted == ["laughs as a feature"], found
    assert all("\n" not in message for message, _ in found if message is not None)
    granted = spare + (confined.MEMORY_FACTOR * max(map(len, files)) >> 20)
    # The limit is on addresses; of those mapped before it was set, libraries' pages may be touched only afterwards.
    assert found[-1][1] <= before + 1.25 * granted, found
    with FeatureStore.open(tmp_path / f"{1 + list(bombs()).index('laughs as a feature')}.h5") as store:
        assert store.feature("text/amb-dsgdn").reasons().tolist() == ["", "not a vector of numbers"]
    assert not list(tmp_path.glob(".*"))


def test_no_module_of_the_working_directory_is_imported(tmp_path, monkeypatch):
    """Users may work in a directory that came with the files."""
    monkeypatch.chdir(tmp_path)
    for name in ("h5py", "numpy", "erc_toolkit"):
        Path(f"{name}.py").write_text("open('imported', 'w').close()\nraise SystemExit('hostile')\n")
    Path("x.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(UserError):
        confined.convert_confined(["x.pkl"], tmp_path / "x.h5")
    assert not Path("imported").exists()


def test_a_crash_in_the_reader_is_one_line(tmp_path, monkeypatch):
    """Whatever a damaged file does to the process that reads it, the main process continues."""
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({}))
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nkill -SEGV $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(multiprocessing.spawn, "_python_exe", os.fsencode(script))
    with pytest.raises(UserError, match="SIGSEGV"):
        confined.convert_confined([str(path)], tmp_path / "x.h5")


arrays = st.sampled_from([np.float32, np.float64, np.int64, np.uint8, ">f4", "U3", "S2", bool]).flatmap(
    lambda kind: st.integers(0, 4).map(lambda n: (np.arange(n * 2).reshape(n, 2) % 2).astype(kind))
)
content = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | arrays,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=12,
)


def same(a, b) -> bool:
    if isinstance(b, np.ndarray):
        if not isinstance(a, np.ndarray):
            return False
        # Protocol 5 keeps the byte order, the others use the native one.
        kinds = (a.dtype.newbyteorder("="), b.dtype.newbyteorder("="))
        return a.shape == b.shape and kinds[0] == kinds[1] and a.tolist() == b.tolist()
    if isinstance(b, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in b)
    if isinstance(b, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@settings(max_examples=200, deadline=None)
@given(content, st.integers(0, 5))
def test_plain_content_is_read_unchanged(tmp_path_factory, value, protocol):
    path = tmp_path_factory.getbasetemp() / "plain.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    # Protocols below 3 store bytes as a call of Python 2's codec; they are still read unchanged.
    found = load_pickle(path)
    assert same(found, value)


def test_containers_and_python_2(tmp_path):
    path = tmp_path / "x.pkl"
    value = [
        collections.OrderedDict(a=1),
        {1, 2},
        frozenset("a"),
        np.float32(2.5),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    ]
    for protocol in (2, 4, 5):
        path.write_bytes(pickle.dumps([*value, collections.defaultdict(list, {1: [2]})], protocol=protocol))
        *found, filled = load_pickle(path)
        assert (
            found[:4] == value[:4]
            and type(found[3]) is np.float32
            and (found[4] == value[4]).all()
            and filled == {1: [2]}
        )
    # A pickle of Python 2: strings as bytes, the bytes of arrays as strings, numpy before `_core`.
    raw = np.array([1.5, -2.0, 200.0], "<f8").tobytes()
    two = (
        b"\x80\x02}U\x01aq\x00cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
        b"(K\x01K\x03\x85cnumpy\ndtype\nq\x04U\x02f8K\x00K\x01\x87Rq\x05"
        b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U" + bytes([len(raw)]) + raw + b"tbs."
    )
    path.write_bytes(two)
    assert load_pickle(path)["a"].tolist() == [1.5, -2.0, 200.0]
    for damaged, what in (
        (two[:-20], "ends too early"),
        (b"", "an empty file"),
        (b"not a pickle", "a text file"),
        (b"\x80\x04", "ends too early"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"x\.pkl: .*{what}"):
            load_pickle(path)
    with pytest.raises(UserError, match=r"none\.pkl: "):
        load_pickle(tmp_path / "none.pkl")
