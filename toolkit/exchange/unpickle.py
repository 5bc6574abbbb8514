"""Loading pickles and files of `torch.save` without executing them (`pickles/safe.py`), and explaining what fails."""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from pathlib import Path

from ..base.errors import UserError
from ..base.reading.file_kinds import Kind, file_kind
from .pickles.opening import DAMAGED, REMEDIES, damaged, not_a_pickle, open_unpacked
from .pickles.safe import Incomplete, Refused
from .pickles.torch_files import TensorReader, load_torch

# Nothing that starts like these is a pickle; of other kinds it is only said after it could not be unpickled.
_NEVER = ("zip", "npz", "npy", "hdf5", "zstd", "lz4", "7z", "rar", "office", "empty", "zeros", "tar", "parquet", "zlib")
_MAY_BE = ("pickle", "torch", "unknown")
# By the module of the first name that is not allowed.
_WRITERS = (
    ("joblib.", "joblib wrote it: load it with joblib.load in your own Python and save it with pickle.dump"),
    ("pandas.", "contains a pandas table: save its columns with .to_numpy() as .npz, its labels with .to_csv"),
    ("torch.", "contains PyTorch objects other than tensors: save tensors, lists and dictionaries only"),
    ("torch_geometric.", "contains graphs of PyTorch Geometric: save their tensors"),
    ("scipy.sparse", "contains sparse matrices of SciPy: save them with .toarray()"),
    ("tensorflow.", "contains TensorFlow objects: save them with .numpy()"),
    ("jax", "contains JAX arrays: save them with numpy.asarray"),
    ("dill.", "dill wrote it: save it with pickle"),
    ("numpy.ma.", "contains masked arrays of NumPy: save their .data"),
)
_CUT = ("truncated", "ran out of input", "pickle exhausted before end", "unexpected end", "ended before")
_AS_TEXT = re.compile(rb"(?:\xef\xbb\xbf)?(?:\xef\xbf\xbd|\xc2\x80)[\x02-\x05]")


def load_pickle(path: Path, notes: list[str] | None = None) -> object:
    """Loads a pickle, or a file of `torch.save`, of numbers, strings, arrays, tensors and plain containers.

    Files compressed with gzip, bzip2, xz or LZMA are decompressed. If a program changed the file's line ends, that is
    undone. Strings of Python 2 are decoded (`toolkit.base.reading.foreign_text`); tensors become arrays.

    Untrusted files should be read through `erc_toolkit.toolkit.exchange.confined`: this function limits neither memory
    nor time.

    Args:
        path: the file.
        notes: a line is appended for everything that was undone.

    Raises:
        UserError: the file is something else, which is named; or the pickle uses anything else, which is named but
            never looked up; or it is damaged.
        MemoryError: the pickle requests more memory than there is.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    file, kind, within = open_unpacked(path, notes)
    with file:
        if kind.name in _NEVER:
            raise not_a_pickle(path, kind, within)
        try:
            if kind.name == "torch":
                return load_torch(file if file.seekable() else io.BytesIO(file.read()))
            return TensorReader(file).load()
        except MemoryError:
            raise
        except DAMAGED as error:
            raise damaged(path, file_kind(path), error) from None
        except Exception as error:  # a damaged pickle may raise anything
            failure = error
    if (found := _undo_line_ends(path, kind, within)) is not None:
        if notes is not None:
            notes.append(
                f"{path.name}: its line ends had been changed to CR LF, as git's autocrlf or a text-mode transfer "
                "does; changed back"
            )
        return found[0]
    raise _explained(path, kind, within, failure) from None


def _undo_line_ends(path: Path, kind: Kind, within: str) -> tuple[object] | None:
    """The content of a pickle in which every LF had become CR LF, or None if it is not that.

    Every text and array of a pickle has its length before it, so a pickle that loads after the replacement is whole.
    """
    if within or kind.name not in ("pickle", "text"):
        return None
    data = path.read_bytes()
    if not _has_only_crlf(data):
        return None
    try:
        return (TensorReader(io.BytesIO(data.replace(b"\r\n", b"\n"))).load(),)
    except MemoryError:
        raise
    except Exception:
        return None


def _has_only_crlf(data: bytes) -> bool:
    return b"\r\n" in data and data.count(b"\n") == data.count(b"\r\n")


def _explained(path: Path, kind: Kind, within: str, error: Exception) -> UserError:
    """Why a file could not be unpickled, and what to do."""
    why = " ".join(str(error).split())
    what = "a file of torch.save" if kind.name == "torch" else "a pickle"
    if kind.name not in _MAY_BE:
        return not_a_pickle(path, kind, within)
    if isinstance(error, (zipfile.BadZipFile, Incomplete)):
        return UserError(f"{path}: {kind.description} that is damaged or incomplete ({why[:80]}); fetch the file again")
    if not within:
        head = path.read_bytes()
        if _AS_TEXT.match(head):
            return UserError(
                f"{path}: a pickle that a program has saved as text in UTF-8, which destroys it (damaged); fetch it "
                "again as a binary file"
            )
        if kind.name == "pickle" and _has_only_crlf(head):
            return UserError(
                f"{path}: a pickle whose line ends were changed to CR LF, as git's autocrlf or a text-mode transfer "
                "does; damaged beyond repair: fetch it again as a binary file (git: `*.pkl binary` in .gitattributes)"
            )
    if isinstance(error, Refused):
        if remedy := next((r for module, r in _WRITERS if why.startswith(f"uses {module}")), None):
            return UserError(f"{path}: {why}; {remedy}")
        if not why.startswith("uses "):
            return UserError(f"{path}: {why}; refused: damaged, or not written by numpy and Python")
        return UserError(
            f"{path}: {why}; refused: a pickle can run any program, so only numpy arrays, tensors, numbers, strings "
            "and plain containers are read. If you trust the file, save it again without anything else"
        )
    if isinstance(error, EOFError) or any(sign in why.lower() for sign in _CUT):
        size = f" after {path.stat().st_size:,} bytes" if not within else ""
        return UserError(f"{path}: {within}{what} that ends too early{size} (damaged); {REMEDIES['empty']}")
    name = "" if isinstance(error, pickle.UnpicklingError) else f"{type(error).__name__}: "
    return UserError(f"{path}: {within}{kind.description}: not a pickle, or damaged ({name}{why[:120]})")
