"""Reading pickles of numbers and strings without executing them.

A pickle is a program that can call any function of any module. Here only the names that plain containers and numpy
arrays need are allowed, and they resolve not to numpy's functions but to the short ones below, which check their
arguments. Any other name is refused before it is looked up.

A few bytes of a pickle can still request unlimited memory and time, so untrusted pickles are read in a separate process
with limits on both: `erc_toolkit.toolkit.exchange.confined`.

Strings of Python 2 are bytes. They are decoded as `base.reading.foreign_text` says, and keep their bytes, since the
numbers of an array are such a string as well.
"""

from __future__ import annotations

import codecs
import collections
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Literal, cast

import numpy as np

from ...base.reading.foreign_text import DecodedBytes, decode_bytes

_CODE = re.compile(r"[<>=|]?(?:b1|[iu][1248]|f[248]|[SU]\d{1,6}|[bBhHiIlLqQefd?]|O8?|bool)")


class Refused(pickle.UnpicklingError):
    """The pickle does something that is not allowed; the message is a predicate of which the file is the subject."""


class Incomplete(pickle.UnpicklingError):
    """A part of the file is missing."""


class Allowed:
    """A name that a pickle may call; not a class or function, so that a pickle can neither subclass nor modify it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]):
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise Refused("sets attributes of a function")


class _Type:
    """A dtype: numbers, fixed-length strings, or objects."""

    __slots__ = ("dtype",)

    def __init__(self, code: object):
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            raise Refused(f"contains arrays of type {str(code)[:40]!r}")
        self.dtype = np.dtype(code)
        if self.dtype.itemsize == 0:
            raise Refused("contains arrays with elements of size 0")

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise Refused("has an invalid array type")
        if any(part is not None for part in state[2:5]):
            raise Refused("contains structured arrays")
        if state[1] in "<>":
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array from a pickle. Its `__setstate__` has numpy's interface, with checks."""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Type):
            raise Refused("has an invalid array state")
        _, shape, kind, fortran, data = state
        filled = _filled(data, kind, shape, "F" if fortran else "C")
        content = data if filled.dtype.hasobject else _bytes(data)
        super().__setstate__(cast(Any, (1, filled.shape, filled.dtype, bool(fortran), content)))


def _bytes(data: object) -> bytes:
    # Python 2 pickled an array's bytes as `str`.
    if isinstance(data, DecodedBytes):
        return data.raw
    if isinstance(data, str):
        return data.encode("latin-1")
    if not isinstance(data, (bytes, bytearray)):
        raise Refused("has an array without bytes")
    return bytes(data)


_CODEC, _MOST_TEXT = "erc_toolkit_python2", 1 << 20


def _decode(data: Any, errors: str = "strict") -> tuple[str, int]:
    # What is larger than a text is an array's data, which is not worth decoding twice.
    data = bytes(data)
    return (data.decode("latin-1") if len(data) > _MOST_TEXT else decode_bytes(data)), len(data)


def _find_codec(name: str) -> codecs.CodecInfo | None:
    return codecs.CodecInfo(_refuse_encoding, _decode, name=_CODEC) if name == _CODEC else None


def _refuse_encoding(text: str, errors: str = "strict") -> tuple[bytes, int]:
    raise ValueError("this codec only decodes")


codecs.register(_find_codec)


def _filled(data: object, kind: _Type, shape: object, order: Literal["C", "F"]) -> np.ndarray:
    """Builds an array from bytes or from a list of objects.

    Raises:
        UnpicklingError: the size of the data does not match dtype and shape.
    """
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 8:
        raise Refused("has an invalid array shape")
    count = 1
    for n in shape:
        count *= n
    if kind.dtype.hasobject:
        if not isinstance(data, list) or len(data) != count:
            raise Refused("has an array whose objects do not match its shape")
        flat = np.empty(count, object)
        for i, item in enumerate(data):  # assigning the whole list would look into nested lists
            flat[i] = item
        return flat.reshape(shape, order=order)
    data = _bytes(data)
    if len(data) != count * kind.dtype.itemsize:
        raise Refused("has an array whose bytes do not match its shape")
    return np.frombuffer(data, kind.dtype).reshape(shape, order=order)


def _reconstruct(*arguments: object) -> np.ndarray:
    if len(arguments) != 3 or arguments[0] is not _NDARRAY or arguments[1] != (0,):
        raise Refused("has an invalid array constructor")
    return np.ndarray.__new__(_Array, (0,), "b")


def _frombuffer(data: object, kind: object, shape: object, order: object) -> np.ndarray:
    if not isinstance(kind, _Type) or kind.dtype.hasobject or order not in ("C", "F"):
        raise Refused("has an invalid array state")
    return _filled(data, kind, shape, order)


def _scalar(kind: object, data: object) -> object:
    if not isinstance(kind, _Type) or kind.dtype.hasobject:
        raise Refused("has an invalid numpy scalar")
    return _filled(data, kind, (), "C")[()]


def _encode(text: object, codec: object) -> bytes:
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise Refused(f"uses the codec {str(codec)[:40]!r}")
    return text.encode("latin-1")


def _container(make: Callable[..., object]) -> Callable[..., object]:
    def call(*arguments: object) -> object:
        if len(arguments) > 1 or any(not isinstance(a, (list, tuple)) for a in arguments):
            raise Refused("builds a container from something other than a list")
        return make(*arguments)

    return call


_DTYPE = Allowed(lambda code, *_: _Type(code))
# Only passed as arguments, to `_reconstruct` and as a defaultdict's factory; never to be called.
_NDARRAY, _LIST = Allowed(lambda *_: _refuse_call("numpy.ndarray")), Allowed(lambda *_: _refuse_call("list"))
_SET, _FROZENSET, _DICT = (Allowed(_container(kind)) for kind in (set, frozenset, collections.OrderedDict))

_BYTES = Allowed(lambda: b"")  # how Python 3 pickles empty bytes for Python 2


def _refuse_call(name: str) -> object:
    raise Refused(f"calls {name}")


_ALLOWED = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _DTYPE,
    ("_codecs", "encode"): Allowed(_encode),
    ("collections", "OrderedDict"): _DICT,
    ("collections", "defaultdict"): Allowed(lambda *_: {}),
    **{
        (f"numpy.{core}.{module}", name): Allowed(function)
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
    **{
        (module, name): allowed
        for module in ("builtins", "__builtin__")
        for name, allowed in (
            ("set", _SET),
            ("frozenset", _FROZENSET),
            ("list", _LIST),
            ("dict", _DICT),
            ("bytes", _BYTES),
        )
    },
}


class SafeReader(pickle.Unpickler):
    """Unpickles what is allowed, from a binary file."""

    names: Mapping[tuple[str, str], Allowed] = _ALLOWED

    def __init__(self, file: BinaryIO):
        super().__init__(file, encoding=_CODEC)

    def find_class(self, module: str, name: str) -> object:
        try:
            return self.names[module, name]
        except (KeyError, TypeError):
            raise Refused(f"uses {str(module)[:80]}.{str(name)[:80]}") from None

    def persistent_load(self, pid: object) -> object:
        raise Refused("refers to objects outside the file")
