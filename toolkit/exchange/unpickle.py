"""Reading pickles that hold numbers and texts, without running what a pickle says.

A pickle is a program: it names any function of any module and calls it. Here the only names that mean anything are those
that plain containers and numpy arrays need, and what stands behind them is not numpy's functions but the short ones below,
which check what they are given. Every other name ends the reading before it is looked up.

That leaves memory and time, which a few bytes of a pickle can ask for without end; so a pickle of unknown origin is read
in a process of its own with a limit on both: `erc_toolkit.toolkit.exchange.confined`.
"""

from __future__ import annotations

import collections
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..base.errors import UserError

_CODE = re.compile(r"[<>=|]?(?:b1|[iu][1248]|f[248]|[SU]\d{1,6}|[bBhHiIlLqQefd?]|O8?|bool)")


class _Admitted:
    """A name that a pickle may call. Neither a class nor a function, so that a pickle can neither subclass nor change it."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]):
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("sets attributes of a function")


class _Type:
    """numpy's dtype: a number, a text of fixed length, or an object."""

    __slots__ = ("dtype",)

    def __init__(self, code: object):
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            raise pickle.UnpicklingError(f"holds arrays of the type {str(code)[:40]!r}")
        self.dtype = np.dtype(code)
        if self.dtype.itemsize == 0:
            raise pickle.UnpicklingError("holds arrays whose elements have no size")

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("describes an array's type as numpy never does")
        if any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("holds arrays of records")
        if state[1] in "<>":
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray):
    """An array whose content comes from a pickle. Its `__setstate__` is what numpy calls it, with checks."""

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or not isinstance(state[2], _Type):
            raise pickle.UnpicklingError("fills an array as numpy never does")
        _, shape, kind, fortran, data = state
        filled = _filled(data, kind, shape, "F" if fortran else "C")
        super().__setstate__(
            (1, filled.shape, filled.dtype, bool(fortran), _bytes(data) if not filled.dtype.hasobject else data)
        )


def _bytes(data: object) -> bytes:
    # Python 2 kept arrays' bytes as a `str`, which loading as Latin-1 turns into a text of the same numbers.
    return data.encode("latin-1") if isinstance(data, str) else bytes(data)


def _filled(data: object, kind: _Type, shape: object, order: str) -> np.ndarray:
    """The array of some bytes, or of a list of objects.

    Raises:
        UnpicklingError: the bytes are not as many as type and shape take.
    """
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 8:
        raise pickle.UnpicklingError("gives an array a shape that is none")
    count = 1
    for n in shape:
        count *= n
    if kind.dtype.hasobject:
        if not isinstance(data, list) or len(data) != count:
            raise pickle.UnpicklingError("gives an array of objects more or fewer than its shape says")
        flat = np.empty(count, object)
        for i, item in enumerate(data):  # assigning the list at once would look into nested ones
            flat[i] = item
        return flat.reshape(shape, order=order)
    if not isinstance(data, (bytes, bytearray, str)) or len(data) != count * kind.dtype.itemsize:
        raise pickle.UnpicklingError("gives an array more or fewer bytes than its shape says")
    return np.frombuffer(_bytes(data), kind.dtype).reshape(shape, order=order)


def _reconstruct(*arguments: object) -> np.ndarray:
    if len(arguments) != 3 or arguments[0] is not _NDARRAY or arguments[1] != (0,):
        raise pickle.UnpicklingError("makes an array as numpy never does")
    return np.ndarray.__new__(_Array, (0,), "b")


def _frombuffer(data: object, kind: object, shape: object, order: object) -> np.ndarray:
    if not isinstance(kind, _Type) or kind.dtype.hasobject or order not in ("C", "F"):
        raise pickle.UnpicklingError("fills an array as numpy never does")
    return _filled(data, kind, shape, order)


def _scalar(kind: object, data: object) -> object:
    if not isinstance(kind, _Type) or kind.dtype.hasobject:
        raise pickle.UnpicklingError("makes a number as numpy never does")
    return _filled(data, kind, (), "C")[()]


def _encode(text: object, codec: object) -> bytes:
    if not isinstance(text, str) or codec not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"encodes by {str(codec)[:40]!r}")
    return text.encode("latin-1")


def _container(make: Callable[[object], object]) -> Callable[..., object]:
    def call(*arguments: object) -> object:
        if len(arguments) > 1 or any(not isinstance(a, (list, tuple)) for a in arguments):
            raise pickle.UnpicklingError("makes a container of something else than a list")
        return make(*arguments)

    return call


_DTYPE = _Admitted(lambda code, *_: _Type(code))
# Named as what `_reconstruct` makes and as what a defaultdict fills itself with, never to be called.
_NDARRAY, _LIST = _Admitted(lambda *_: _refuse_call("numpy.ndarray")), _Admitted(lambda *_: _refuse_call("list"))
_SET, _FROZENSET, _DICT = (_Admitted(_container(kind)) for kind in (set, frozenset, collections.OrderedDict))

_BYTES = _Admitted(lambda: b"")  # how Python 3 writes no bytes for Python 2


def _refuse_call(name: str) -> object:
    raise pickle.UnpicklingError(f"calls {name}")


_ADMITTED = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _DTYPE,
    ("_codecs", "encode"): _Admitted(_encode),
    ("collections", "OrderedDict"): _DICT,
    ("collections", "defaultdict"): _Admitted(lambda *_: {}),
    **{
        (f"numpy.{core}.{module}", name): _Admitted(function)
        for core in ("core", "_core")
        for module, name, function in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _frombuffer),
        )
    },
    **{
        (module, name): admitted
        for module in ("builtins", "__builtin__")
        for name, admitted in (
            ("set", _SET),
            ("frozenset", _FROZENSET),
            ("list", _LIST),
            ("dict", _DICT),
            ("bytes", _BYTES),
        )
    },
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        try:
            return _ADMITTED[module, name]
        except (KeyError, TypeError):
            raise pickle.UnpicklingError(f"asks for {str(module)[:80]}.{str(name)[:80]}") from None

    def persistent_load(self, pid: object) -> object:
        raise pickle.UnpicklingError("refers to objects outside itself")


def load_pickle(path: Path) -> object:
    """What a pickle holds, if that is numbers, texts, numpy arrays and plain containers; Python 2's texts as Latin-1.

    Call it through `erc_toolkit.toolkit.exchange.confined` where the file is not your own: it limits neither memory nor time.

    Raises:
        UserError: it asks for anything else, which is named and never looked up; or it is damaged.
        MemoryError: it asks for more memory than there is.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with open(path, "rb") as file:
            return _Reader(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        reason = " ".join(str(error).split())
        if reason.startswith(
            ("asks", "calls", "makes", "holds", "gives", "fills", "describes", "encodes", "refers", "sets")
        ):
            raise UserError(
                f"{path}: {reason}; refused, for a pickle can run any program and only numpy arrays, numbers, texts and plain "
                "containers are read. If you trust it, save it again with nothing else in it"
            ) from None
        raise UserError(f"{path}: not a pickle, or damaged ({reason[:120]})") from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged pickle may fail in any way
        raise UserError(
            f"{path}: not a pickle, or damaged ({type(error).__name__}: {' '.join(str(error).split())[:120]})"
        ) from None
