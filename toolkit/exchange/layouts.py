"""The tuples of dictionaries in which published features are pickled, and how to recognise them.

Each is a tuple or list of dictionaries that map a dialogue to a list with one entry per utterance, and of lists of
dialogues. The parts are not named in the file; they are recognised by their number and content.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TypeGuard

import numpy as np

from ..base.words import counted
from .pack import entry_length, numeric_vector


@dataclass(frozen=True)
class Layout:
    """One order of the parts.

    Attributes:
        name: name that `convert` prints and the store records.
        parts: content of each part: "ids", "speakers", "labels", "sentences", "train", "val", "test", a feature's
            "modality/name", or "-" for what cannot be stored.
        users: the projects whose loaders read it.
        corpus: the corpus, if only one is published in this layout.
    """

    name: str
    parts: tuple[str, ...]
    users: str
    corpus: str | None = None


_ROBERTA = tuple(f"text/roberta-{i}" for i in (1, 2, 3, 4))
_HEAD = ("ids", "speakers", "labels")
_COMET = ("xIntent", "xAttr", "xNeed", "xWant", "xEffect", "xReact", "oWant", "oEffect", "oReact")

# If several match, the first one is used.
LAYOUTS = (
    Layout(
        "sdt",
        (*_HEAD, *_ROBERTA, "audio/sdt", "visual/sdt", "sentences", "train", "test"),
        "SDT, AMB-DSGDN, DF-GCN",
        "iemocap",
    ),
    Layout(
        "sdt-meld",
        (*_HEAD, *_ROBERTA, "audio/sdt", "visual/sdt", "sentences", "train", "test", "-"),
        "SDT, AMB-DSGDN, DF-GCN",
        "meld",
    ),
    Layout(
        "mmgcn",
        (*_HEAD, "text/mmgcn", "audio/mmgcn", "visual/mmgcn", "sentences", "train", "test"),
        "MMGCN, MM-DFN, M3NET, DialogueRNN",
        "iemocap",
    ),
    Layout(
        "mmgcn-meld",
        (*_HEAD, "text/mmgcn", "audio/mmgcn", "visual/mmgcn", "sentences", "train", "test", "-"),
        "MMGCN, MM-DFN, M3NET",
        "meld",
    ),
    Layout(
        "dialoguernn-meld",
        (*_HEAD, "text/mmgcn", "audio/mmgcn", "sentences", "train", "test", "-"),
        "DialogueRNN",
        "meld",
    ),
    Layout(
        "cosmic-features-meld",
        ("speakers", "labels", "-", *_ROBERTA, "sentences", "train", "test", "val"),
        "COSMIC, M3NET",
        "meld",
    ),
    Layout("cosmic-features", ("speakers", "labels", *_ROBERTA, "sentences", "train", "test", "val"), "COSMIC, M3NET"),
    Layout("gcnet", ("ids", "labels", "speakers", "sentences", "train", "test"), "GCNet"),
    Layout(
        "gcnet-val", ("ids", "labels", "speakers", "sentences", "train", "val", "test"), "GCNet, for MOSI and MOSEI"
    ),
    Layout("cosmic-sentences-meld", ("speakers", "labels", "-", "sentences", "train", "test", "val"), "COSMIC", "meld"),
    Layout("cosmic-sentences", ("speakers", "labels", "sentences", "train", "test", "val"), "COSMIC"),
    Layout("cosmic-comet", tuple(f"text/comet-{name}" for name in _COMET), "COSMIC"),
    Layout(
        "amb-dsgdn-text",
        ("speakers", "labels", "text/amb-dsgdn", "sentences", "train", "test"),
        "AMB-DSGDN, for DailyDialog",
        "dailydialog",
    ),
    Layout(
        "dailydialogue",
        ("speakers", "text/dialoguernn", "-", "labels", "train", "test", "val"),
        "MMGCN, DialogueRNN",
        "dailydialog",
    ),
)


def recognise(content: object) -> Layout | None:
    """The layout of an unpickled file, or None."""
    if isinstance(content, Mapping) and kinds(content) & {"texts"}:
        return Layout("sentences", ("sentences",), "COSMIC")
    if not isinstance(content, (list, tuple)):
        return None
    found = [kinds(part) for part in content]
    return next(
        (layout for layout in LAYOUTS if len(layout.parts) == len(found) and all(map(_fits, layout.parts, found))), None
    )


def _fits(part: str, found: set[str]) -> bool:
    if part == "-":
        return True
    if part in ("train", "val", "test"):
        return "keys" in found
    if "/" in part:
        return bool(found & {"vectors", "nothing"})
    wanted = {
        "ids": {"texts", "numbers"},
        "speakers": {"texts", "one-hot"},
        "labels": {"numbers", "scores"},
        "sentences": {"texts"},
    }
    return bool(found & wanted[part])


def kinds(part: object) -> set[str]:
    """What a part may contain: "texts", "numbers", "scores", "vectors", "one-hot" per utterance; "keys"; "nothing"."""
    if isinstance(part, Mapping):
        if not part:
            return {"nothing"}
        # A dialogue may be empty or damaged; the kind is taken from the first few that are neither.
        for entry in islice((e for e in part.values() if _sized(e)), 5):
            if found := _entry_kinds(entry):
                return found
        return set()
    if isinstance(part, (list, tuple, set, frozenset)) or (isinstance(part, np.ndarray) and part.ndim == 1):
        return {"keys"} if all(isinstance(key, (str, int, np.integer)) for key in islice(part, 10)) else set()
    return set()


def _sized(entry: object) -> bool:
    return bool(entry_length(entry))


def _entry_kinds(entry: list | tuple | np.ndarray) -> set[str]:
    first = entry[0]
    if isinstance(first, str):
        return {"texts"}
    if is_whole(first):
        return {"numbers"}
    if isinstance(first, (float, np.floating)):
        return {"scores"}
    vector = numeric_vector(first)
    if vector is None:
        frames = isinstance(first, np.ndarray) and first.ndim == 2 and first.dtype.kind in "fiu"
        return {"vectors"} if frames else set()
    one_hot = len(vector) <= 64 and set(vector.tolist()) <= {0.0, 1.0} and vector.sum() == 1
    return {"vectors", "one-hot"} if one_hot else {"vectors"}


def is_whole(value: object) -> TypeGuard[int]:
    """Whether a value is a whole number, of Python or numpy."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def short_key(key: object) -> str:
    """A key in a message. A number may have a million digits, and a tuple be nested as often."""
    if isinstance(key, str):
        return " ".join(key[:20].split())
    return str(key) if isinstance(key, float) or (is_whole(key) and abs(key) < 10**15) else f"({type(key).__name__})"


def describe(content: object) -> str:
    """A short description of an unrecognised file's content."""
    if isinstance(content, Mapping):
        keys = ", ".join(short_key(k) for k in islice(content, 4))
        return f"a dictionary of {counted(len(content), 'entry', 'entries')} ({keys}, …)"
    if isinstance(content, (list, tuple)):
        parts = ("/".join(sorted(kinds(part))) or type(part).__name__ for part in content[:14])
        return f"a {type(content).__name__} of {len(content)}: {', '.join(parts)}"
    return f"a {type(content).__name__}"
