"""Mutations of valid examples, for the fuzzers."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

# What has broken parsers: long runs, numbers beyond every type, characters that are not text, marks of formats.
BAD = (
    '\0 \ud800 \udfff \ufeff \u2028 \x85 \x1e \x7f \r \r\n \n \n\n \\ " \' "" ; , \t | . : -- --> < <v > &  [ ] { } {} '
    "null true NaN Infinity -1 0 1e400 1e-400 1E+999999 00:00:01,5 1:2:3 PT1.5S 1.5s 99:99:99 ١ ½ ms sep=; é 日本"
).split(" ")
LONG = (" ", "9", "<v ", "[", '{"a":', "(", "0:", "-", '"', ",", ";", "\t", "\n", "\r", ".", "e", "T", "\\", "a")


def mutated(rng: random.Random, examples: Sequence[str]) -> str:
    """One of the examples with up to 6 changes; rarely unchanged, or nothing but garbage."""
    text = rng.choice(examples) if rng.random() < 0.95 else garbage(rng)
    for _ in range(rng.randrange(7)):
        text = _changed(rng, text, examples)
    return text


def garbage(rng: random.Random) -> str:
    """Bad parts and random characters."""
    return "".join(
        rng.choice(BAD) if rng.random() < 0.5 else chr(rng.choice((rng.randrange(32, 127), rng.randrange(0xD7FF))))
        for _ in range(rng.randrange(40))
    )


def as_bytes(rng: random.Random, text: str) -> bytes:
    """The text in one of the encodings that files have, sometimes damaged."""
    encoding = rng.choice(
        ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "utf-32")
    )
    data = text.encode(encoding, "ignore" if encoding == "cp1252" else "surrogatepass")
    if data and rng.random() < 0.1:
        at = rng.randrange(len(data))
        data = data[:at] + rng.randbytes(rng.randrange(3)) + data[at + rng.randrange(3) :]
    return data


def _changed(rng: random.Random, text: str, examples: Sequence[str]) -> str:
    at, to = sorted((rng.randrange(len(text) + 1), rng.randrange(len(text) + 1)))
    kind = rng.randrange(9)
    if kind == 0:
        return text[:at] + rng.choice(BAD) + text[at:]
    if kind == 1:  # in place of a word or number
        while at > 0 and text[at - 1].isalnum():
            at -= 1
        to = at
        while to < len(text) and text[to].isalnum():
            to += 1
        return text[:at] + rng.choice(BAD) + text[to:]
    if kind == 2:
        return text[:at] + text[min(to, at + 30) :]
    if kind == 3:
        return text[:to] + text[at:]
    if kind == 4 and rng.random() < 0.2:
        return text[:at] + rng.choice(LONG) * rng.choice((10, 300, 5000, 16_000)) + text[at:]
    if kind == 5:
        other = rng.choice(examples)
        start = rng.randrange(len(other) + 1)
        return text[:at] + other[start : start + rng.randrange(60)] + text[at:]
    if kind == 6:
        one, other = rng.choice(BAD), rng.choice(BAD)
        return text.replace(one, other) if one and len(other) < 3 else text
    if kind == 7:
        lines = text.split("\n")
        rng.shuffle(lines)
        return "\n".join(lines)
    return text.replace("\n", rng.choice(("\r", "\r\n", "\n\n"))) if rng.random() < 0.3 else text[:to]


_LITERALS = ("9" * 5000, "-" + "1" * 400, "1e400", "1E+999999999", "NaN", "-Infinity", "[" * 2000 + "]" * 2000, "1.50")
_VALUES = (
    None,
    True,
    0,
    -1,
    3,
    1.5,
    1e12,
    "",
    "x",
    "1,5",
    "1.5s",
    "PT2S",
    "00:01",
    "\0",
    "\ud800",
    "NaN",
    [],
    {},
    [None],
)


def mutated_json(rng: random.Random, examples: Sequence[str]) -> str:
    """JSON whose values and keys are changed, so that it stays JSON: what `mutated` rarely gives."""
    value = json.loads(rng.choice(examples))
    for _ in range(rng.randrange(1, 4)):
        places = list(_places(value))
        if not places:
            break
        holder, key = rng.choice(places)
        kind = rng.randrange(6)
        if kind < 3:
            holder[key] = (
                copy.deepcopy(rng.choice(_VALUES)) if rng.random() < 0.8 else f"@{rng.randrange(len(_LITERALS))}@"
            )
        elif kind == 3:
            other, name = rng.choice(places)
            holder[key] = copy.deepcopy(other[name])
        elif kind == 4:
            del holder[key]
        elif isinstance(holder, list):
            holder += [copy.deepcopy(holder[key]) for _ in range(rng.randrange(4))]
        else:
            holder[rng.choice([name for _, name in places if isinstance(name, str)] or ["x"])] = holder.pop(key)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    for i, literal in enumerate(_LITERALS):
        text = text.replace(f'"@{i}@"', literal)
    return text


def _places(value: object) -> Iterator[tuple[Any, Any]]:
    """(list or dict, index or key) of every value within a value."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, (list, dict)):
            for key in range(len(one)) if isinstance(one, list) else list(one):
                yield one, key
                todo.append(one[key])
