"""What reading a store with one flipped bit comes to, for many bits: each is read in a process that may hang or die."""

from __future__ import annotations

import hashlib
import os
import signal
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.manifest import Utterance
from erc_toolkit.toolkit.store import FeaturePart, FeatureStore, StoreWriter

SAME, REFUSED, WRONG, BARE, HUNG, DIED = "same", "refused", "wrong content", "bare exception", "hung", "died"
LIMIT = 20  # seconds for one file


def varied_store(path: Path) -> Path:
    """A small store with everything that a store may have: sequences, details, a reduction, names, a masked row."""
    utterances = [
        Utterance(
            f"d{i // 4}_{i}", f"d{i // 4}", i % 4, "AB"[i % 2], f"text {i}", ("joy", "anger", None)[i % 3], "train"
        )
        for i in range(12)
    ]
    rng = np.random.default_rng(0)
    present = np.arange(12) % 5 != 0
    reasons = ["" if p else "no audio track" for p in present]
    with StoreWriter(
        path, corpus="small", labels=["joy", "anger"], utterances=utterances, attrs={"notes": '["a note"]'}
    ) as writer:
        made = {"extractor": "random", "options": {"seed": 0}, "layer": 2, "share": 0.5}
        numbers = {"columns": np.arange(5), "f_values": np.linspace(1, 2, 5)}
        writer.add_feature(
            "audio",
            "ComParE",
            rng.normal(size=(12, 5)),
            present,
            reasons,
            made,
            {"seconds": np.arange(12) / 10},
            [f"pcm_{i}" for i in range(5)],
            numbers,
        )
        counts = present.astype(np.int64) * 3
        frames = rng.normal(size=(counts.sum(), 4)).astype(np.float32)
        part = FeaturePart(
            0, rng.normal(size=(12, 3)).astype(np.float32), reasons, {}, frames, counts, np.arange(len(frames)) / 5
        )
        writer.add_feature_parts("visual", "face", 3, [part], made, (), 4, ["w", "x", "y", "z"])
    return path


def everything(path: Path, verify: bool = False) -> str:
    """A digest of all that a store returns."""
    with FeatureStore.open(path) as store:
        found: list[object] = [store.corpus, store.labels, store.attrs, store.dialogue_ids, store.speaker_names]
        found += [store.column(name) for name in ("id", "dialogue", "position", "speaker", "label", "split", "text")]
        found += [store.column(name) for name in ("start_s", "end_s", "media")]
        for name in store.feature_names():
            feature = store.feature(name)
            found += [name, feature.dim, feature.attrs, feature.values(), feature.present(), feature.reasons()]
            found += [feature.dimension_names(), feature.details(), feature.reduction(), feature.frame_names()]
            if feature.has_sequences:
                found += [feature.sequence(i) for i in range(len(store))]
        if verify:
            store.verify()
    return hashlib.sha256("\n".join(map(_shown, found)).encode()).hexdigest()


def outcomes(path: Path, bits: Iterable[int], scratch: Path, verify: bool = False) -> Iterator[tuple[int, str, str]]:
    """Flips each of the given bits of a store in turn and reads it.

    Yields:
        The bit's number, one of the outcomes above, and the message or exception.
    """
    data, expected, waiting = path.read_bytes(), everything(path), list(bits)
    while waiting:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            _serve(data, waiting, scratch, expected, verify, write)
        os.close(write)
        with open(read, "rb") as pipe:
            while (size := pipe.read(4)) and (text := pipe.read(struct.unpack("<i", size)[0]).decode()):
                kind, _, message = text.partition("\n")
                yield waiting.pop(0), kind, message
        _, status = os.waitpid(child, 0)
        if waiting:
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
            yield waiting.pop(0), HUNG if number == signal.SIGALRM else DIED, f"status {status}"


def _serve(data: bytes, bits: list[int], scratch: Path, expected: str, verify: bool, pipe: int) -> None:
    try:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the kernel ends a process that hangs outside Python
        for bit in bits:
            signal.alarm(LIMIT)
            changed = bytearray(data)
            changed[bit // 8] ^= 1 << bit % 8
            scratch.unlink(missing_ok=True)
            scratch.write_bytes(changed)
            try:
                text = SAME if everything(scratch, verify) == expected else WRONG
            except UserError as error:
                text = f"{REFUSED if chr(10) not in error.message else BARE}\n{error.message}"
            except BaseException as error:
                text = f"{BARE}\n{error!r}"
            encoded = text.encode()
            os.write(pipe, struct.pack("<i", len(encoded)) + encoded)
    finally:
        os._exit(0)


def _shown(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.dtype} {value.tolist()}"
    if isinstance(value, dict):
        return str({name: _shown(item) for name, item in sorted(value.items())})
    if isinstance(value, tuple):
        return str([_shown(item) for item in value])
    return repr(value)
