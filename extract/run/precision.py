"""`--precision auto`, and a line about a precision that is slower here than float32."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from ...toolkit.base.device import pick_device
from ...toolkit.base.errors import UserError
from ...toolkit.base.precision import AUTO, fastest_precision, slowness
from ...toolkit.base.reading.plain_json import parse_json
from ...toolkit.store import FeatureStore
from ..encoders.selection import PRECISIONS, WITHOUT_NETWORK, Options
from .assembly import parts_root
from .extractors import choose


def with_precision(options: Options, out: Path, notify: Callable[[str], None]) -> Options:
    """The options with a precision in place of "auto".

    "auto" is what earlier work on the same modalities at `out` was computed in, so that it can be resumed; otherwise
    what is fastest on the device.

    Args:
        options: of the run.
        out: the store that the run writes.
        notify: called with a line about what was chosen, or about a precision that is slower than float32 here.
    """
    chosen = choose(options)
    if all(registered.name in WITHOUT_NETWORK for _, registered in chosen):
        return dataclasses.replace(options, precision="float32") if options.precision == AUTO else options
    device = pick_device(options.device)
    if options.precision == AUTO:
        modalities = {request.modality for request, _ in chosen}
        earlier = {
            name for one in earlier_options(modalities, out) if (name := str(one.get("precision"))) in PRECISIONS
        }
        why = f"as the work in {out} is" if len(earlier) == 1 else f"measured on {device}"
        options = dataclasses.replace(
            options, precision=earlier.pop() if len(earlier) == 1 else fastest_precision(device)
        )
        notify(f"precision: {options.precision}, {why}")
    if line := slowness(options.precision, device, "--precision"):
        notify(f"note: {line}")
    return options


def earlier_options(modalities: Collection[str], out: Path) -> Iterator[Mapping[str, object]]:
    """The options of earlier work on the modalities: of unfinished parts, or else of the features of the store."""
    records = []
    for path in parts_root(out).glob("*/options.json"):
        if path.parent.name.partition("--")[0] in modalities:
            records.append(path.read_text(encoding="utf-8"))
    if not records and out.is_file():
        try:
            with FeatureStore.open(out) as store:
                names = [name for name in store.feature_names() if name.partition("/")[0] in modalities]
                records = [str(store.feature(name).attrs.get("options", "")) for name in names]
        except UserError:  # the run itself refuses the file
            return
    for record in records:
        try:
            found = parse_json(record)
        except ValueError:  # of a converted feature, or damaged
            continue
        if isinstance(found, dict):
            yield found
