"""Parsers of `toolkit.exchange`: pickles, files of torch.save, arrays, tables, layouts, foreign text, file kinds."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import resource
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.base.reading import file_kinds, foreign_text
from erc_toolkit.toolkit.exchange import arrays, mmsa
from erc_toolkit.toolkit.exchange.layouts import LAYOUTS, describe, recognise
from erc_toolkit.toolkit.exchange.pickles.texts import bytes_to_texts
from erc_toolkit.toolkit.exchange.pickles.torch_files import TensorReader
from erc_toolkit.toolkit.exchange.read_lists import read_lists
from erc_toolkit.toolkit.exchange.readers import splits, tables
from erc_toolkit.toolkit.exchange.readers.repairs import repair_texts
from erc_toolkit.toolkit.exchange.unpickle import load_pickle

_HOSTILE = (b"\n", b"\r\n", b"9", b" ", b"(", b"\x85", b"]", b"\xc3", b"\x80", b"\xff", b"\0", b"ustar", b"PK\x03\x04")


@cache
def _folder() -> Path:
    """A folder of this process."""
    memory = "/dev/shm"  # a disk would take most of the time
    return Path(tempfile.mkdtemp(prefix="erc-fuzz-", dir=memory if os.access(memory, os.W_OK) else None))


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    """Limits memory as `toolkit.exchange.confined` does, where these parsers run; what needs more is refused there."""
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), hard))
    try:
        yield
    except MemoryError:
        pass
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _file(data: bytes, suffix: str) -> Path:
    path = _folder() / f"x{suffix}"
    path.write_bytes(data)
    return path


def mutated(rng: random.Random, data: bytes) -> bytes:
    """A valid input with a few bytes changed, removed, repeated or inserted."""
    changed = bytearray(data)
    for _ in range(rng.choice((0, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(5)
        if kind == 0 and at < len(changed):
            changed[at] = rng.randrange(256)
        elif kind == 1:
            del changed[at : at + rng.choice((1, 2, 7, 100))]
        elif kind == 2:
            changed[at:at] = rng.choice(_HOSTILE) * rng.choice((1, 3, 300, 16_000))
        elif kind == 3:
            changed[at:at] = changed[at : at + rng.randrange(40)]
        else:
            changed[at:at] = rng.randbytes(rng.choice((1, 4, 30)))
    return bytes(changed)


_VALUES: tuple[Callable[[random.Random], object], ...] = (
    lambda rng: rng.choice((None, True, -1, 0, 1, 2**40, 10**5000, -(10**4999), 1.5, float("nan"), float("inf"))),
    lambda rng: rng.choice(("", "a", "caf\xc3\xa9", "I\x92m", "\udcc3", "\0", "v1$_$0", "v[3]", "Ses01", "1" * 5000)),
    lambda rng: rng.choice((b"", b"a", b"caf\xc3\xa9", b"\x92", b"\xff\xfe")),
    lambda rng: np.array(rng.choices((0, 1, -1, np.nan, np.inf, 1e300), k=rng.randrange(5))),
    lambda rng: np.array([[1.0, np.inf], [0.0, 2.0]])[: rng.randrange(3)],
    lambda rng: np.array(rng.choices((b"a", b"\x92", b""), k=rng.randrange(3))),
    lambda rng: np.zeros(
        rng.choice(((0,), (2, 0), (0, 3), (1, 2, 3), (2, 1), ())), rng.choice(("f4", "i8", "?", "U3"))
    ),
)


def _value(rng: random.Random, depth: int = 3) -> object:
    if depth and rng.random() < 0.4:
        inner = [_value(rng, depth - 1) for _ in range(rng.randrange(4))]
        return rng.choice((inner, tuple(inner), {str(i): x for i, x in enumerate(inner)}))
    return rng.choice(_VALUES)(rng)


def _spoiled(rng: random.Random, value: object, depth: int = 4) -> object:
    """A valid content in which some entries, at any depth, are something else."""
    if rng.random() < 0.04:
        return _value(rng)
    if depth and isinstance(value, dict):
        return {
            (rng.choice(("x", 10**5000, 3, "Ses01F_1")) if rng.random() < 0.02 else k): _spoiled(rng, v, depth - 1)
            for k, v in value.items()
        }
    if depth and isinstance(value, (list, tuple)):
        return type(value)(_spoiled(rng, v, depth - 1) for v in value)
    return value


def _lists(rng: random.Random) -> tuple[list, object]:
    layout = rng.choice([known for known in LAYOUTS if "labels" in known.parts])
    lengths = {rng.choice((f"Ses0{i}F_{i}", i, f"d\x92{i}")): 1 + i for i in range(1, 4)}
    made: list = []
    for part in layout.parts:
        if part in ("train", "val", "test"):
            made.append([key for i, key in enumerate(lengths) if i == ("train", "val", "test").index(part)])
            continue
        entry: Callable[[], object] = lambda: np.ones(3, np.float32)  # noqa: E731
        if part in ("ids", "speakers", "sentences"):
            entry = lambda: rng.choice(("A", "B", "caf\xc3\xa9"))  # noqa: E731
        elif part in ("labels", "-"):
            entry = lambda: rng.choice((0, 1, 2, -1))  # noqa: E731
        made.append({key: [entry() for _ in range(n)] for key, n in lengths.items()})
    return made, layout


def _splits(rng: random.Random) -> object:
    def fields(n: int) -> dict:
        made = {
            "text": np.ones((n, 2, 3), np.float32),
            "audio": np.ones((n, 2, 3)),
            "vision": [np.ones((2, 3))] * n,
            "labels": np.zeros(rng.choice(((n,), (n, 1, 1), (n, 6), (n, 7), (n, 4, 2), (n, 3)))),
            "id": rng.choice(([f"v$_${i}" for i in range(n)], np.array([[b"v", b"1", b"2"]] * n), list(range(n)))),
            "segments": [f"v[{i}]" for i in range(n)],
            "raw_text": ["caf\xc3\xa9"] * n,
            "annotations": ["a", "b", ""][:n],
            "classification_labels": [0.0, 1.0, -1][:n],
            "audio_lengths": [1, 2, 0][:n],
        }
        return {k: v for k, v in made.items() if rng.random() < 0.7}

    names = rng.choice((("train", "valid", "test"), ("train", "dev", "test"), ("train",)))
    if rng.random() < 0.2:
        example = ((["a", "b"], np.ones((2, 3)), np.ones((2, 3))), [[0.5]], "v[1]")
        return {name: [example] * rng.randrange(3) for name in names}
    return {name: fields(rng.randrange(4)) for name in names}


def read_content(content: object) -> None:
    """What `convert` does with an unpickled content, without writing a store."""
    content = bytes_to_texts(content)
    notes: list[str] = []
    if mmsa.is_mmsa(content) or splits.is_splits(content):
        if not mmsa.is_mmsa(content) or splits.is_splits_without_labels(content):
            content = splits.as_mmsa(content, "x.pkl", notes)
        pack = mmsa.read_mmsa(content, "x.pkl", corpus=None, labels=[], keep_zeros=False)
    elif (layout := recognise(content)) is not None and "labels" in layout.parts:
        pack = read_lists(content, layout, "x.pkl", corpus=None, labels=[], keep_zeros=False)
    else:
        assert "\n" not in describe(content)
        return
    repair_texts(pack)
    assert len({u.id for u in pack.utterances}) == len(pack.utterances)
    for line in (*notes, *pack.problems, *(u.text for u in pack.utterances)):
        line.encode("utf-8")


@cache
def _pickles() -> tuple[bytes, ...]:
    plain = {"a": ["b", "caf\xe9", 1.5, 2**70], "x": np.arange(4.0), "y": np.array(["u"]), "s": np.float32(1)}
    two = b"\x80\x02}U\x01aU\x05caf\xc3\xa9s."
    return *(pickle.dumps(plain, protocol=p) for p in (0, 2, 4, 5)), two


@cache
def _torch_files() -> tuple[bytes, ...]:
    import torch

    content = {"a": torch.arange(6.0).reshape(2, 3).T, "b": [torch.ones(2, dtype=torch.bfloat16), "x"]}
    made = [pickle.dumps(content)]
    for new in (True, False):
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=new)
        made.append(file.getvalue())
    return tuple(made)


@cache
def _array_files() -> tuple[bytes, ...]:
    made = []
    for write in (
        lambda f: np.save(f, np.arange(6.0).reshape(2, 3)),
        lambda f: np.save(f, np.array([{"a": 1}], object)),
        lambda f: np.savez(f, a=np.ones(2), train_corpus=np.array({"u": {"emo": "x"}}, object)),
        lambda f: np.savez_compressed(f, a=np.ones(2)),
    ):
        file = io.BytesIO()
        write(file)
        made.append(file.getvalue())
    return tuple(made)


def fuzz_pickle_opcodes(rng: random.Random) -> None:
    with _limited():
        try:
            content = TensorReader(io.BytesIO(mutated(rng, rng.choice(_pickles())))).load()
        except Exception:  # a damaged pickle may raise anything; `load_pickle` makes one line of it
            return
        bytes_to_texts(content)


def fuzz_pickle_file(rng: random.Random) -> None:
    path = _file(mutated(rng, rng.choice((*_pickles(), *_torch_files()))), ".pkl")
    with _limited():
        try:
            read_content(load_pickle(path, []))
        except UserError as error:
            assert "\n" not in error.message


def fuzz_arrays(rng: random.Random) -> None:
    path = _file(mutated(rng, rng.choice(_array_files())), ".npz")
    with _limited():
        try:
            content = arrays.load_arrays(path)
            if tables.is_label_archive(content):
                tables.read_label_archive(content, path, [])
        except UserError as error:
            assert "\n" not in error.message


def fuzz_label_archive(rng: random.Random) -> None:
    labels = {rng.choice(("u", "v\x92", 3)): {"emo": rng.choice(("a", 1, 10**5000)), "val": 1.0}}
    content = np.empty((), object)
    content[()] = _spoiled(rng, labels)
    try:
        tables.read_label_archive({"train_corpus": content}, Path("l.npz"), [])
    except UserError:
        pass


def fuzz_tables(rng: random.Random) -> None:
    table = "name,emotion,split,dialogue,text\nu1,joy,train,d1,caf\xe9\nu2,joy,train,d1,'x'\n"
    data = table.encode(rng.choice(("utf-8", "cp1252", "utf-16"))).replace(b",", rng.choice((b",", b";", b"\t")))
    try:
        tables.read_table(_file(mutated(rng, data), ".csv"), [])
    except UserError as error:
        assert "\n" not in error.message


def fuzz_lists_layout(rng: random.Random) -> None:
    content, layout = _lists(rng)
    content = _spoiled(rng, content)
    try:
        read_content(content)
    except UserError as error:
        assert "\n" not in error.message


def fuzz_mmsa_layout(rng: random.Random) -> None:
    try:
        read_content(_spoiled(rng, _splits(rng)))
    except UserError as error:
        assert "\n" not in error.message


def fuzz_foreign_text(rng: random.Random) -> None:
    pieces = ("caf\xc3\xa9", "I\x92m", "\u2019", "Ã©", "\udcc3\udca9", "\ud800", "a", "\x81", "\0", "e\u0301", "日")
    text = "".join(rng.choices(pieces, k=rng.randrange(6))) * rng.choice((*[1] * 30, 2000))
    once = foreign_text.repaired(text)
    assert foreign_text.repaired(once) == once
    foreign_text.looks_misread(text)
    foreign_text.same_name(text)
    foreign_text.match_names([text, once], [once, "x"])
    data = mutated(rng, text.encode("utf-8", "surrogatepass"))
    foreign_text.decode(data)
    foreign_text.decode(data)
    repair = foreign_text.TextRepair()
    repair.learn([text])
    repair.repair(foreign_text.decode_bytes(data))
    repair.notes("texts")


@cache
def _heads() -> tuple[bytes, ...]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("word/document.xml", "x")
    known = [s.ljust(300, b"\1")[:at] + signature for at, signature, *_ in file_kinds._SIGNATURES for s in (b"",)]
    return (
        *known,
        archive.getvalue(),
        b"RIFF\0\0\0\0WAVEfmt ",
        b"\0\0\0\x18ftypisom",
        b"G" + b"\0" * 187,
        b"<html>",
        b"{",
    )


def fuzz_file_kinds(rng: random.Random) -> None:
    head = mutated(rng, rng.choice(_heads()) + rng.randbytes(rng.choice((0, 1, 40))))
    description = file_kinds.describe_kind(head)
    assert description and "\n" not in description


_torch_files()  # imports torch, which is not the time of any input
PARSERS: dict[str, Callable[[random.Random], None]] = {
    name.removeprefix("fuzz_"): parser for name, parser in list(globals().items()) if name.startswith("fuzz_")
}
