"""Large manifests: the fast reading finds what the slow one finds, in a memory that a million lines fit into."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import subprocess
import sys
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manifest_reference import load_slowly

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.base.threads import map_in_threads
from erc_toolkit.toolkit.manifest import Manifest, Utterance, load_manifest, write_manifest

_PEAK = """
import pathlib, resource, sys
from erc_toolkit.toolkit.commands.main import main
try:
    main(sys.argv[1:])
except SystemExit as done:
    assert not done.code
status = pathlib.Path("/proc/self/status")
if status.exists():  # the other figure includes the process that started this one
    peak = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print("peak", peak)
"""

# Values as they are written in the file, of which some are right for some fields.
_VALUES = (
    *('"a"', '"b é"', '""', '"\\u0000"', '"\\ud800"', '"\\ud83d\\ude00"', '"\x85"', '"\t"', "{", "x"),
    *('"Joy"', '"joy"', '"JOY "', '"train"', '"Dev"', '"test"'),
    *('"clips/a.mp4"', '"../a.mp4"', '"/a"', '"C:/a"', '"C:a"', '"a..b"', '"\\\\\\\\host\\\\a"'),
    *("null", "true", "0", "1", "2", "-0.0", "1.5", "1e400", "-1e400", "NaN", "Infinity", "1e300", "10000001"),
    *('"1:02"', '"1,5"', '"1500 ms"', "1" * 301, "9" * 299, "[" * 99 + "]" * 99, "[" * 101 + "]" * 101),
    *("[]", "{}", "[0, 0, 1, 1]", '"0 0 0.5 1"', "[0.5, 0, 0.2, 1]"),
    *('{"boxes": [[0.2, 0.1, 0.1, 0.3, 0.4]], "confidence": 0.9}', '{"off_screen": "x"}', '{"boxes": [[1]]}'),
    *('{"audio": "x"}', '{"audio": 1}', '{"sound": "x"}', '{"a": 1, "a": 2}', '{"a": {"b": ["c\\u0000"]}}'),
)
_FIELDS = (
    *("id", "dialogue", "position", "speaker", "text", "label", "split", "media", "audio", "start", "end"),
    *("audio_start", "audio_end", "audio_channel", "region", "speaker_face", "mask", "extra"),
    *("other", "erc_manifest", "\\u0000"),
)
_HEADERS = (
    *("", ', "labels": ["joy", "sad"]', ', "labels": ["joy", "JOY"]', ', "labels": [1]', ', "x": 1'),
    *(', "root": "a", "corpus": "c", "notes": ["n"]', ', "root": 1'),
)
_LINES = ("", " ", "\u2028", "[]", "{} {}", "x", "\r")


@st.composite
def files(draw) -> str:
    """The text of a manifest file in which a few things may be wrong."""
    lines = []
    if draw(st.booleans()):
        lines.append(
            f'{{"erc_manifest": {draw(st.sampled_from(["1", "1", "1", "2"]))}{draw(st.sampled_from(_HEADERS))}}}'
        )
    for i in range(draw(st.integers(0, 5))):
        fields = [("id", f'"{i}"'), ("dialogue", f'"d{draw(st.sampled_from([0, 0, 0, 1]))}"'), ("speaker", '"A"')]
        for _ in range(draw(st.integers(0, 4))):
            fields.append((draw(st.sampled_from(_FIELDS)), draw(st.sampled_from(_VALUES))))
        if draw(st.integers(0, 3)):  # mostly without a field twice
            fields = [*dict(fields).items()]
        lines.append("{" + ", ".join(f'"{name}": {value}' for name, value in fields) + "}")
    for _ in range(draw(st.integers(0, 1))):
        lines.insert(draw(st.integers(0, len(lines))), draw(st.sampled_from(_LINES)))
    return draw(st.sampled_from(["\n", "\n", "\r\n"])).join(lines) + draw(st.sampled_from(["", "\n"]))


def outcome(load, path) -> object:
    """What a reading of a manifest gives, with the sign of zeros and the type of numbers, or its error."""
    try:
        return repr(load(path))
    except UserError as error:
        return error.message


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=400)
@given(files(), st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"]))
def test_the_fast_reading_finds_what_the_slow_one_finds(tmp_path, text, encoding):
    (tmp_path / "m.jsonl").write_bytes(text.encode(encoding, "replace"))
    assert outcome(load_manifest, tmp_path / "m.jsonl") == outcome(load_slowly, tmp_path / "m.jsonl")


def test_a_line_that_is_no_json_comes_before_what_is_wrong_with_a_row(tmp_path):
    rows = ['{"erc_manifest": 9}', '{"id": 1}', '{"id": 1, "id": 2}']
    (tmp_path / "m.jsonl").write_text("\n".join(rows))
    with pytest.raises(UserError, match="line 3, field id"):
        load_manifest(tmp_path / "m.jsonl")


def write(path, count: int):
    """A manifest of `count` utterances, and the size of its texts and names in memory."""
    with open(path, "w") as file:
        file.write(json.dumps({"erc_manifest": 1, "labels": ["joy", "sad"]}) + "\n")
        for i in range(count):
            row = {"id": f"d{i // 10}_u{i}", "dialogue": f"d{i // 10}", "position": i % 10, "speaker": f"S{i % 7}",
                   "text": "What do you mean, you do not know it?", "label": "sad", "split": "train",
                   "media": f"episode{i // 10 % 5}.mp4", "start": i + 0.25, "end": i + 1.5}  # fmt: skip
            file.write(json.dumps(row) + "\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("command", ["stats", "validate"])
def test_memory_of_a_million_lines(tmp_path, command):
    """What 1,000,000 lines take, from what 100,000 take more than 20,000: less than 600 MB with the libraries."""
    for i in range(5):
        (tmp_path / f"episode{i}.mp4").write_bytes(b"x")
    peaks = []
    for count in (20_000, 120_000):
        write(tmp_path / "m.jsonl", count)
        child = [sys.executable, "-c", _PEAK, "manifest", command, str(tmp_path / "m.jsonl")]
        out = subprocess.run(child, capture_output=True, text=True, check=True).stdout
        assert f"{count:,}" in out or str(count) in out
        peaks.append(int(out.rsplit("peak", 1)[1]))
    assert peaks[0] + (peaks[1] - peaks[0]) * 9.8 < 600e6, peaks


def test_empty_masks_and_extras_are_shared_and_stay_empty(tmp_path):
    one, other = Utterance("a", "d", 0, "A", "", None, "train"), Utterance("b", "d", 1, "A", "", None, "train")
    assert one.mask is other.mask is one.extra and one.mask == {}
    for change in (
        lambda d: d.__setitem__("audio", "x"),
        lambda d: d.update(audio="x"),
        lambda d: d.setdefault("audio", "x"),
        lambda d: d.__ior__({"audio": "x"}),
    ):
        with pytest.raises(TypeError, match="replace"):
            change(one.mask)
    assert other.mask == {} == pickle.loads(pickle.dumps(one)).mask == copy.deepcopy(one).extra
    assert dataclasses.replace(one, mask={"audio": "x"}).mask == {"audio": "x"}
    assert dataclasses.asdict(one)["extra"] == {} and json.dumps(one.extra) == "{}" and {**one.mask} == {}
    write_manifest(Manifest("c", [], tmp_path, [one, other]), tmp_path / "m.jsonl")
    assert load_manifest(tmp_path / "m.jsonl").utterances == [one, other]


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(tmp_path):
    good = Utterance("a", "d", 0, "A", "", None, "train")
    write_manifest(Manifest("c", [], tmp_path, [good]), tmp_path / "m.jsonl")
    before = (tmp_path / "m.jsonl").read_bytes()
    for extra in ({"x": "\0"}, {"x": object()}, {"x": "\ud800"}):
        with pytest.raises(UserError):
            bad = dataclasses.replace(good, id="b", position=1, extra=extra)
            write_manifest(Manifest("c", [], tmp_path, [good, bad]), tmp_path / "m.jsonl")
        assert (tmp_path / "m.jsonl").read_bytes() == before and [*tmp_path.iterdir()] == [tmp_path / "m.jsonl"]


def test_threads_give_results_in_order_and_do_not_run_ahead():
    taken = []

    def items():
        for i in range(1000):
            taken.append(i)
            yield i

    results = map_in_threads(lambda i: i * i, items(), workers=2)
    assert [next(results) for _ in range(3)] == [0, 1, 4] and len(taken) < 100
    assert [*results] == [i * i for i in range(3, 1000)]


def test_threads_end_with_the_first_error():
    def fail(i):
        if i == 5:
            raise ValueError(i)
        return i

    results = map_in_threads(fail, range(1000), workers=3)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    before = threading.active_count()
    with pytest.raises(ValueError):
        next(results)
    assert threading.active_count() < before
