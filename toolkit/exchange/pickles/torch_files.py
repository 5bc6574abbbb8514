"""Files of `torch.save`, and tensors in plain pickles, as arrays: without PyTorch, and without executing anything.

Since PyTorch 1.6 such a file is a ZIP archive: `NAME/data.pkl`, a pickle in which a tensor's numbers are references,
and `NAME/data/KEY`, the numbers. Before, it was five pickles in a row, followed by the numbers.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable
from typing import BinaryIO

import numpy as np

from .safe import Allowed, Incomplete, Refused, SafeReader

_STORAGES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
MAGIC = 0x1950A86A20F9469CFC6C
_EXPANDED = 1 << 24  # elements of a tensor that repeats those of its storage


class _Kind(Allowed):
    """A storage's type: only an argument, never called."""

    __slots__ = ("code",)

    def __init__(self, code: str):
        super().__init__(_refuse_call)
        self.code = code


def _refuse_call(*_: object) -> object:
    raise Refused("creates a PyTorch storage of its own")


class _Storage:
    """The numbers that tensors are views of."""

    __slots__ = ("values",)

    def __init__(self, data: bytes, code: str, count: int, big: bool = False):
        bits = np.dtype("u2" if code == "bfloat16" else code).newbyteorder(">" if big else "<")
        if len(data) != count * bits.itemsize:
            raise Refused("has a tensor whose bytes do not match its size")
        values = np.frombuffer(data, bits)
        if code == "bfloat16":  # the upper half of a float32
            values = (values.astype(np.uint32) << 16).view(np.float32)
        self.values = values


def _tensor(*arguments: object) -> np.ndarray:
    """`torch._utils._rebuild_tensor_v2(storage, offset, size, stride, …)` as an array."""
    name = "torch._utils._rebuild_tensor_v2"
    if len(arguments) < 4 or not isinstance(arguments[0], _Storage):
        raise Refused(f"calls {name} with something else than a tensor's data")
    storage, (offset,), size, stride = arguments[0], *map(_whole, ((arguments[1],), *arguments[2:4]))
    if len(size) != len(stride) or len(size) > 16:
        raise Refused(f"calls {name} with an invalid shape")
    count = 1
    for n in size:
        count *= n
    values = storage.values
    if count and offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) >= len(values):
        raise Refused("has a tensor that is larger than its data")
    if count > max(len(values), _EXPANDED):
        raise Refused("has a tensor that repeats its data too often")
    if not count:
        return np.zeros(size, values.dtype)
    item = values.itemsize
    view = np.lib.stride_tricks.as_strided(values[offset:], size, [s * item for s in stride], writeable=False)
    return np.array(view, values.dtype.newbyteorder("="))


def _whole(numbers: object) -> tuple[int, ...]:
    """A tuple of whole numbers that are not negative, nor too large for a file."""
    if not isinstance(numbers, tuple) or not all(type(n) is int and 0 <= n < 1 << 48 for n in numbers):
        raise Refused("calls torch._utils._rebuild_tensor_v2 with an invalid shape")
    return numbers


def _parameter(*arguments: object) -> object:
    if not arguments or not isinstance(arguments[0], np.ndarray):
        raise Refused("has a parameter without a tensor")
    return arguments[0]


def _size(*arguments: object) -> object:
    if len(arguments) != 1 or not isinstance(arguments[0], (tuple, list)):
        raise Refused("has an invalid torch.Size")
    return tuple(arguments[0])


def _load_from_bytes(*arguments: object) -> object:
    """A storage within a plain pickle: the bytes are a file of `torch.save`."""
    if len(arguments) != 1 or not isinstance(arguments[0], bytes):
        raise Refused("has a PyTorch storage without bytes")
    return load_torch(io.BytesIO(arguments[0]))


_NAMES = {
    ("torch._utils", "_rebuild_tensor_v2"): Allowed(_tensor),
    ("torch._utils", "_rebuild_tensor"): Allowed(_tensor),
    ("torch._utils", "_rebuild_parameter"): Allowed(_parameter),
    ("torch.storage", "_load_from_bytes"): Allowed(_load_from_bytes),
    ("torch", "Size"): Allowed(_size),
    **{("torch", name): _Kind(code) for name, code in _STORAGES.items()},
}


class TensorReader(SafeReader):
    """Unpickles what `SafeReader` does, and PyTorch's tensors, which become arrays.

    Args:
        file: the pickle.
        storage: the numbers of a persistent id, by its type's code, key and number of elements; None if there are none.
    """

    names = {**SafeReader.names, **_NAMES}

    def __init__(self, file: BinaryIO, storage: Callable[[str, str, int], _Storage] | None = None):
        super().__init__(file)
        self._storage = storage

    def persistent_load(self, pid: object) -> object:
        if self._storage is None or not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
            return super().persistent_load(pid)
        _, kind, key, _, count = pid[:5]
        if not isinstance(kind, _Kind) or not isinstance(key, str) or type(count) is not int or count < 0:
            raise Refused("has a tensor of a type that is not read")
        if len(pid) == 6 and pid[5] is not None:
            raise Refused("has a storage that is a view of another one")
        return self._storage(kind.code, key, count)


def load_torch(file: BinaryIO) -> object:
    """Loads a file of `torch.save`: numbers, texts, arrays, tensors as arrays, and plain containers.

    Args:
        file: seekable.

    Raises:
        UnpicklingError: it contains anything else, or is damaged.
    """
    start = file.read(4)
    file.seek(0)
    return _load_archive(file) if start[:2] == b"PK" else _load_legacy(file)


def _load_archive(file: BinaryIO) -> object:
    with zipfile.ZipFile(file) as archive:
        found = [name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(found) != 1:
            raise Refused("is a ZIP archive, but not one of torch.save")
        folder = found[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in archive.namelist():
            raise Refused("is a TorchScript program, not data")
        big = f"{folder}byteorder" in archive.namelist() and _member(archive, f"{folder}byteorder") == b"big"
        known: dict[str, _Storage] = {}

        def storage(code: str, key: str, count: int) -> _Storage:
            if key not in known:
                known[key] = _Storage(_member(archive, f"{folder}data/{key}"), code, count, big)
            return known[key]

        return TensorReader(io.BytesIO(_member(archive, found[0])), storage).load()


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise Incomplete(f"it has no part {name[-60:]!r}") from None
    if info.compress_type != zipfile.ZIP_STORED:  # torch.save does not compress: what is small stays small
        raise Refused("is an archive that was compressed again; unpack it and save it with torch.save")
    return archive.read(info)


def _load_legacy(file: BinaryIO) -> object:
    reader = io.BufferedReader(io.BytesIO(file.read()))  # its `peek` lets one pickle end where the next one starts
    magic, protocol, system = (SafeReader(reader).load() for _ in range(3))
    if magic != MAGIC or protocol != 1001 or not isinstance(system, dict):
        raise Refused("is not a file of torch.save")
    big, start = system.get("little_endian") is False, reader.tell()
    wanted: dict[str, tuple[str, int]] = {}

    def note(code: str, key: str, count: int) -> _Storage:
        wanted[key] = code, count
        return _Blank()

    class Blank(TensorReader):
        names = {**TensorReader.names, **dict.fromkeys(_BUILDERS, Allowed(lambda *_: None))}

    Blank(reader, note).load()
    keys = SafeReader(reader).load()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or {*wanted} - {*keys}:
        raise Incomplete("it has tensors without data")
    stored: dict[str, _Storage] = {}
    for key in keys:
        head = reader.read(8)
        code, count = wanted.get(key, ("", -1))
        if len(head) < 8 or struct.unpack("<q", head)[0] != count:
            raise Incomplete("a tensor does not have the size that it states")
        size = count * np.dtype("u2" if code == "bfloat16" else code).itemsize
        if len(data := reader.read(size)) < size:
            raise Incomplete("it ends within a tensor")
        stored[key] = _Storage(data, code, count, big)
    reader.seek(start)
    return TensorReader(reader, lambda code, key, count: stored[key]).load()


_BUILDERS = (
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_tensor"),
    ("torch._utils", "_rebuild_parameter"),
)


class _Blank(_Storage):
    """Stands for numbers that have not been read yet."""

    __slots__ = ()

    def __init__(self) -> None:
        self.values = np.zeros(0, np.float32)
