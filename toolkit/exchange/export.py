"""Writing a feature store as other projects' files. A format is a function and an entry in FORMATS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..base.errors import UserError
from ..base.outputs import check_folder, check_output
from ..base.words import counted
from ..manifest import MODALITIES
from .marks import HUB_FILES, is_exported_archive, is_exported_pickle, is_exported_table, is_hub_folder

if TYPE_CHECKING:
    from ..store import FeatureStore


@dataclass(frozen=True)
class Request:
    """What to export: an open store, the selected features (modality to names, in order), the target and options."""

    store: FeatureStore
    features: dict[str, list[str]]
    out: Path
    layout: str | None
    sequences: bool

    @property
    def names(self) -> list[str]:
        return [name for names in self.features.values() for name in names]


class Format(NamedTuple):
    """A format of exported files.

    Attributes:
        write: writes what is requested, and returns notes for the user.
        capacity: number of features per modality that it allows: "one", "four" text features, or "any".
        is_earlier: whether what exists at the target was written by `write`, and may be replaced.
        names: for a format that is a folder, what `write` writes in it; empty for a file.
    """

    write: Callable[[Request], list[str]]
    capacity: str
    is_earlier: Callable[[Path], bool]
    names: Sequence[str] = ()

    def check(self, out: Path, store: Path, overwrite: bool) -> None:
        """Raises a UserError if `out` may not be written (`toolkit.base.outputs`)."""
        if self.names:
            check_folder(out, self.names, [store], earlier=self.is_earlier, overwrite=overwrite)
        else:
            check_output(out, [store], earlier=self.is_earlier, overwrite=overwrite)


def _lists(family: str) -> Callable[[Request], list[str]]:
    def write(request: Request) -> list[str]:
        from .write_lists import layout_for, lists_of, write_pickle

        layout = layout_for(family, request.store, request.layout)
        content, notes = lists_of(request.store, layout, request.features)
        write_pickle(content, request.out)
        return [f"layout {layout.name}, a tuple of {counted(len(content), 'part')}, as read by {layout.users}", *notes]

    return write


def _mmsa(request: Request) -> list[str]:
    from .mmsa import mmsa_content
    from .write_lists import write_pickle

    write_pickle(mmsa_content(request.store, request.features, request.sequences), request.out)
    return ["regression_labels contain class indices, not intensities: train MMSA's classifiers, not its regressors"]


def _npz(request: Request) -> list[str]:
    from .arrays import write_store_arrays

    write_store_arrays(request.store, request.names, request.out)
    return []


def _parquet(request: Request) -> list[str]:
    from .parquet import table_of, write_parquet

    write_parquet(table_of(request.store, request.names), request.out)
    return []


def _hub(request: Request) -> list[str]:
    from .card import card_of
    from .parquet import write_hub_folder

    write_hub_folder(request.store, request.names, request.out, card_of(request.store, request.names, hub_folder=True))
    return ["read it with datasets.load_dataset(FOLDER); check the licences in its README.md before you upload it"]


FORMATS = {
    "amb-dsgdn": Format(_lists("sdt"), "four", is_exported_pickle),
    "mmgcn": Format(_lists("mmgcn"), "one", is_exported_pickle),
    "cosmic": Format(_lists("cosmic-features"), "four", is_exported_pickle),
    "mmsa": Format(_mmsa, "one", is_exported_pickle),
    "npz": Format(_npz, "any", is_exported_archive),
    "parquet": Format(_parquet, "any", is_exported_table),
    "huggingface": Format(_hub, "any", is_hub_folder, HUB_FILES),
}


def choose(store, wanted: tuple[str, ...], capacity: str) -> dict[str, list[str]]:
    """Selects the features to write, by modality.

    Args:
        store: an open `FeatureStore`.
        wanted: names given by the user; those of a modality without any are all its features.
        capacity: number of features per modality that the format allows: "one", "four" text features, or "any".

    Raises:
        UserError: there is no such feature, or the user must choose among several.
    """
    for name in wanted:
        store.feature(name)
    found: dict[str, list[str]] = {}
    for modality in MODALITIES:
        available = [n for n in store.feature_names() if n.startswith(f"{modality}/")]
        names = [n for n in wanted if n.startswith(f"{modality}/")] or available
        if (
            modality == "text"
            and capacity == "four"
            and names == available
            and len(available) > 1
            and not _layers(store, available)
        ):
            raise UserError(_which(store, modality, available))
        most = 4 if modality == "text" and capacity == "four" else 1
        if capacity != "any" and len(names) > most:
            raise UserError(_which(store, modality, names))
        if names:
            found[modality] = names
    if not found and capacity != "any":
        raise UserError(f"{store.path}: has no features; nothing to export")
    return found


def _layers(store, names: list[str]) -> bool:
    """Whether the sorted names are the four layers of one encoder, in order, as `--pooling last4` writes them."""
    return len(names) == 4 and [n[-2:] for n in names] == ["-1", "-2", "-3", "-4"] and len({n[:-2] for n in names}) == 1


def _which(store, modality: str, names: list[str]) -> str:
    return f"{store.path}: has several {modality} features ({', '.join(names)}); choose with --feature {names[0]}"
