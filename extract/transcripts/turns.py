"""What all readers of transcripts share: the turn, the names of its fields, and times with their unit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal, TypedDict

from ...toolkit.base.errors import UserError
from ...toolkit.base.reading.plain_numbers import MOST_SECONDS, finite, parse_clock, shown
from ...toolkit.base.reading.tables import column_key

UNKNOWN = "unknown"
OUR_FORMAT = "erc-toolkit turns"  # of `erc-toolkit transcribe`, under the key "format"
Unit = Literal["s", "ms"]
# Of a recording of unknown duration, whole numbers are milliseconds, where a program writes those, if half of the turns
# last at least this long: in seconds, no one speaks that long half of the time.
_LEAST_MS = 100
# Names of a table's columns or an object's keys, in the form of `column_key`, in order of precedence.
_NAMES = {
    "start": "start begin start_time starttime begin_time begintime time_start onset from in_point tmin start_offset "
    "startoffset start_timestamp start_ts ts offset tstart in",
    "end": "end stop end_time endtime stop_time stoptime time_end to out_point tmax end_offset endoffset end_timestamp "
    "end_ts finish out",
    "duration": "duration dur dduration",
    "speaker": "speaker name who speaker_name speakername speaker_label speakerlabel speaker_id speakerid speaker_tag "
    "speakertag spk participant",
    "text": "text utterance transcript transcription sentence content caption display pred_text",
}
NAMES = {role: tuple(names.split()) for role, names in _NAMES.items()}
_TIMED = ("start", "end", "duration")
_UNITS = {
    **dict.fromkeys(("milliseconds", "millis", "msecs", "msec", "ms"), "ms"),
    **dict.fromkeys(("seconds", "secs", "sec", "s"), "s"),
    **dict.fromkeys(("hh_mm_ss_ms", "hh_mm_ss_mmm", "hh_mm_ss", "hms"), ""),
}
_SUFFIX = re.compile(rf"(.+?)_?(?:in_)?({'|'.join(_UNITS)})")


class Turn(TypedDict):
    """A turn; times in seconds."""

    start: float
    end: float
    speaker: str
    text: str


@dataclass
class Transcript:
    """The turns of a transcript, in its order, and how its times were read.

    Attributes:
        turns: with times in seconds.
        assumed: whether the times are plain numbers whose unit neither the user, nor the names, nor the form of a known
            program says, so that seconds were assumed.
        notes: what was recognised and assumed.
    """

    turns: list[Turn]
    assumed: bool = False
    notes: list[str] = field(default_factory=list)


def role(name: str) -> tuple[str, Unit | None] | None:
    """The field of a turn that a column or key means, and the unit that its name gives: ("start", "ms")."""
    key = column_key(name[:80])
    for what, names in NAMES.items():
        if key in names:
            return what, None
    if match := _SUFFIX.fullmatch(key):
        for what in _TIMED:
            if match[1] in NAMES[what]:
                unit = _UNITS[match[2]]
                return what, "ms" if unit == "ms" else "s" if unit else None
    return None


def roles(names: Mapping[str, object] | list[str], where: str) -> tuple[dict[str, list[str]], Unit | None]:
    """(field to the names that mean it, the preferred one first; unit given by the names, None if none is).

    Raises:
        UserError: the names give several units.
    """
    found: dict[str, list[str]] = {}
    units: set[Unit] = set()
    for name in names:
        if (one := role(name)) is not None:
            found.setdefault(one[0], []).append(name)
            units |= {one[1]} if one[1] else set()
    for what, given in found.items():
        order = {name: i for i, name in enumerate(NAMES[what])}
        given.sort(key=lambda name: order.get(column_key(name), len(order)))
    # "onset" and "offset" are start and end, as in neuroscience; alone "offset" is the start, as NeMo writes it.
    keys = {column_key(name): name for name in found.get("start", [])}
    if "end" not in found and "offset" in keys and len(keys) > 1:
        found["start"].remove(keys["offset"])
        found["end"] = [keys["offset"]]
    if len(units) > 1:
        raise UserError(f"{where}: the names give times in seconds and in milliseconds; leave one of them out")
    return found, next(iter(units), None)


def seconds(value: object, where: str, unit: Unit = "s") -> float:
    """A time in seconds: a plain number in `unit`, or one that says its own unit, like "1.5s" or 00:01:02,500.

    Raises:
        UserError: it is none, or before 0, or longer than any recording.
    """
    number = finite(value)
    if number is not None and unit == "ms":
        number /= 1000
    if isinstance(value, str) and number is None:
        number = parse_clock(value)
    if isinstance(value, dict):
        if "relative" in value:  # Recall.ai
            number = finite(value["relative"])
        elif "seconds" in value or "nanos" in value:  # protocol buffers
            whole, nanos = finite(value.get("seconds", 0)), finite(value.get("nanos", 0))
            number = None if whole is None or nanos is None else whole + nanos / 1e9
    if number is None or number < 0:
        raise UserError(f"{where}: {shown(value)} is not a time; write seconds, or H:M:S")
    if number > MOST_SECONDS:
        raise UserError(f"{where}: {shown(value)} is later than the end of any recording ({MOST_SECONDS:,} s)")
    return number


def are_ms(times: Sequence[tuple[float, float]], duration: float | None) -> bool:
    """Whether times, in the form of a program that writes milliseconds, are those: people write seconds in that form.

    Args:
        times: start and end of each turn, as written.
        duration: of the recording in seconds; None if it is unknown.
    """
    if not times:
        return False
    lasting = median(end - start for start, end in times) >= _LEAST_MS  # nobody says anything in a few milliseconds
    if duration is None:
        return lasting
    last, longest = max(end for _, end in times), duration + max(1.0, 0.05 * duration)
    return lasting and last > longest >= last / 1000  # a transcript of a thousandth of the recording is none


def text_of(value: object) -> str:
    """A field's text: a string, number, or the name in an object; empty for none."""
    if isinstance(value, dict):
        value = next((value[key] for key in ("name", "label", "id", "text") if key in value), "")
    return "" if value is None or isinstance(value, (dict, list)) else str(value).strip()
