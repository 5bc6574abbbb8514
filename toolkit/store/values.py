"""A feature's matrix in the store: contiguous float32, with a separate checksum for each block of rows.

HDF5's own checksum (Fletcher-32) needs chunks and costs several times as much as copying the same bytes from the page
cache. XXH3 is much faster, and contiguous bytes can be read without HDF5 and hashed while they are in the CPU cache.
"""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import xxhash

from ..base.errors import UserError
from ..base.words import counted
from .format import Dataset, damaged

DTYPE, _SUM_DTYPE = np.dtype("<f4"), np.dtype("<u8")
BLOCK_BYTES = 1 << 16  # small enough that one dialogue reads little more than its own rows
_READ_BYTES = 1 << 19  # at a time; fits into the CPU cache, so that hashing does not fetch the bytes again
_LARGE_PAGE = 1 << 21


def block_rows(dim: int) -> int:
    """The number of rows of `dim` float32 values that share a checksum."""
    return max(1, BLOCK_BYTES // (DTYPE.itemsize * max(dim, 1)))


class MatrixWriter:
    """Writes `values` and `checksums` of a feature from its rows in order, with only one part in memory at a time.

    Args:
        group: group of the feature.
        shape: (N, dim) of the matrix; neither may be 0.

    Raises:
        ValueError: the matrix is empty.
    """

    def __init__(self, group: h5py.Group, shape: tuple[int, int]):
        if 0 in shape:
            raise ValueError(f"{group.name}: a matrix of shape {shape} is empty")
        self._group = group
        self._dataset = group.create_dataset("values", shape, DTYPE)
        self._rows = block_rows(shape[1])
        self._done = 0
        self._hash = xxhash.xxh3_64()
        self._sums: list[int] = []

    def append(self, values: np.ndarray) -> None:
        """Writes the next rows, float32 (n, dim)."""
        values = np.ascontiguousarray(values, DTYPE)
        self._dataset[self._done : self._done + len(values)] = values
        at = 0
        while at < len(values):
            take = min(self._rows - self._done % self._rows, len(values) - at)
            self._hash.update(values[at : at + take].data)
            at += take
            self._done += take
            if self._done in (self._dataset.shape[0], (len(self._sums) + 1) * self._rows):
                self._sums.append(self._hash.intdigest())
                self._hash.reset()

    def end(self) -> None:
        """Writes the checksums.

        Raises:
            ValueError: rows are missing.
        """
        if self._done != self._dataset.shape[0]:
            raise ValueError(f"{self._group.name}: {self._done} of {self._dataset.shape[0]} rows were written")
        checksums = self._group.create_dataset("checksums", data=np.array(self._sums, _SUM_DTYPE))
        checksums.attrs["rows"] = self._rows


class _Rows:
    """Reads rows of a dataset: directly from the file if they are contiguous there, otherwise through HDF5.

    Raises:
        UserError: the dataset claims bytes that the file does not have.
    """

    def __init__(self, path: Path, file: h5py.File, dataset: Dataset, by_descriptor: bool):
        self._file, self._dataset, self._offset = file.id, dataset, None
        self._row = math.prod(dataset.shape[1:]) * dataset.dtype.itemsize
        if dataset.layout != h5py.h5d.CONTIGUOUS:
            return
        offset, claimed = dataset.id.get_offset(), dataset.shape[0] * self._row
        if offset is None or dataset.stored != claimed or offset + claimed > file.id.get_filesize():
            raise UserError(f"{path}: {dataset.name} claims {claimed:,} bytes that the file does not have; refused")
        if by_descriptor:
            self._offset = offset

    def buffer(self, count: int, first: int) -> np.ndarray:
        """An uninitialized array for `count` rows from `first` on.

        A large array has the same offset in a memory page as its rows have in a page of the file, which makes copying
        10% faster, and starts in a large page, since each small page before it would cost a page fault.
        """
        size, shape, dtype = count * self._row, (count, *self._dataset.shape[1:]), self._dataset.dtype
        if self._offset is None or size < _LARGE_PAGE or self._offset % dtype.itemsize:
            return np.empty(shape, dtype)
        buffer = np.empty(size + 2 * _LARGE_PAGE, np.uint8)
        shift = -buffer.ctypes.data % _LARGE_PAGE + (self._offset + first * self._row) % mmap.PAGESIZE
        return buffer[shift : shift + size].view(dtype).reshape(shape)

    def pieces(self, out: np.ndarray, first: int, step: int) -> Iterator[memoryview]:
        """Fills `out`, of the dataset's dtype and contiguous, with the rows from `first` on, `step` at a time.

        Yields:
            The bytes of each piece once it is filled.

        Raises:
            OSError: the rows cannot be read, or the file is too short.
        """
        view, size = out.data.cast("B"), self._row
        if self._offset is None:
            for at in range(0, len(out), step):
                self._dataset.opened.read_direct(
                    out[at : at + step], np.s_[first + at : first + min(at + step, len(out))]
                )
                yield view[at * size : (at + step) * size]
            return
        # Queried each time: the descriptor of a closed file may have been reused for another file.
        descriptor, start = self._file.get_vfd_handle(), self._offset + first * size
        for at in range(0, len(view), step * size):
            piece = view[at : at + step * size]
            done = os.preadv(descriptor, [piece], start + at)
            while done < len(piece):
                count = os.preadv(descriptor, [piece[done:]], start + at + done)
                if count == 0:
                    raise OSError("the file ends before its data")
                done += count
            yield piece


def has_descriptor(file: h5py.File) -> bool:
    """Whether the file can be read by its descriptor: other drivers keep it in memory, in pieces or elsewhere."""
    # A file open for writing may have data in HDF5's buffers that is not in the file yet.
    read_only = file.id.get_intent() == h5py.h5f.ACC_RDONLY
    return hasattr(os, "preadv") and read_only and file.id.get_access_plist().get_driver() == h5py.h5fd.SEC2


class Matrix:
    """Reads rows of a feature's `values`; every block that is read is checked against its checksum.

    Args:
        path: path of the store, for error messages.
        file: the store.
        values: float (N, dim), a checked dataset.
        checksums: uint64 (blocks,), a checked dataset; None in older stores, whose chunks have HDF5's checksum.
        rows: number of rows of a block.
        by_descriptor: the result of `has_descriptor` for the file.

    Raises:
        UserError: the checksums are missing or do not match the shape of the matrix.
    """

    def __init__(
        self,
        path: Path,
        file: h5py.File,
        values: Dataset,
        checksums: Dataset | None,
        rows: object,
        by_descriptor: bool,
    ):
        self._path, self._values = path, values
        self.shape: tuple[int, int] = (values.shape[0], values.shape[1])
        self._rows: int | None = None
        if checksums is None:
            if values.layout != h5py.h5d.CHUNKED:
                raise UserError(
                    f"{path}: {values.name} has no checksums: incomplete, or not written by erc-toolkit; "
                    "extract it again"
                )
            return
        n = self.shape[0]
        if not isinstance(rows, int) or rows < 1 or checksums.shape[0] != -(-n // rows):
            raise UserError(
                f"{path}: {values.name} has {counted(n, 'row')}, which does not match its checksums of {rows!r} rows "
                "each; refused"
            )
        if values.dtype != DTYPE or checksums.dtype != _SUM_DTYPE:
            raise UserError(f"{path}: {values.name} has type {values.dtype}, its checksums {checksums.dtype}; refused")
        self._rows = min(rows, n)
        self._data, self._sums = (_Rows(path, file, dataset, by_descriptor) for dataset in (values, checksums))

    def read(self, rows: slice = slice(None)) -> np.ndarray:
        """The rows of a slice, as in numpy: a new array, float32 (n, dim).

        Raises:
            UserError: a block is damaged.
        """
        chosen = range(self.shape[0])[rows]
        first, last = sorted((chosen[0], chosen[-1])) if len(chosen) else (0, -1)
        last += 1
        try:
            values = self._values.opened[first:last] if self._rows is None else self._blocks(first, last, self._rows)
        except OSError as error:
            raise damaged(self._path, self._values.name, error) from None
        return values if chosen.step == 1 else np.ascontiguousarray(values[:: chosen.step])

    def _blocks(self, first: int, last: int, rows: int) -> np.ndarray:
        if first == last or self.shape[1] == 0:
            return np.empty((last - first, self.shape[1]), np.float32)
        begin, end = first // rows, -(-last // rows)
        start = begin * rows
        out = self._data.buffer(min(end * rows, self.shape[0]) - start, start)
        sums = np.empty(end - begin, _SUM_DTYPE)
        for _ in self._sums.pieces(sums, begin, len(sums)):
            pass
        row = out.itemsize * out.shape[1]
        block, digest, found = row * rows, xxhash.xxh3_64_intdigest, []
        for piece in self._data.pieces(out, start, max(1, _READ_BYTES // block) * rows):
            found += [digest(piece[i : i + block]) for i in range(0, len(piece), block)]
        if found != (expected := sums.tolist()):
            wrong = next(i for i, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
            raise OSError(f"the rows from {start + wrong * rows} on do not match their checksum")
        # Non-native only on a big-endian machine.
        result = out[first - start : last - start].astype(np.float32, copy=False)
        # A view of a few rows would keep the whole large block in memory.
        return result.copy() if 2 * len(result) < len(out) else result
