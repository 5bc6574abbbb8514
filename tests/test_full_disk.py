"""Full and read-only disks, limits and impossible paths: one line that names the place, and nothing half-written.

The disks are real file systems in memory, mounted in a namespace of their own.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_support import FAST, SLOW, WRITERS, make_material, one_line, succeed

from erc_toolkit.toolkit.base.disk import REMEDIES, disk_fault, disk_faults, error_in
from erc_toolkit.toolkit.base.errors import FaultError, UserError

CASES = [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]
EVERY = [pytest.param(name, marks=pytest.mark.slow) for name in WRITERS]
RESUMABLE = {
    "realign",
    "train",
    "study",
    "leaderboard",
    "finetune-text",
    "finetune-speech",
    "train-face",
}  # what they wrote before is kept to continue
PAGE = 4096


def can_mount() -> bool:
    try:
        return not subprocess.run(["unshare", "-rm", "true"], capture_output=True, check=False).returncode
    except OSError:
        return False


needs_mount = pytest.mark.skipif(not can_mount(), reason="no file system can be mounted here without root")


@pytest.fixture(scope="module")
def material(request, tmp_path_factory) -> Path:
    slow = any(item.get_closest_marker("slow") for item in request.session.items)
    return make_material(tmp_path_factory.mktemp("all"), trained=slow)


# Mounts a disk, fills it, runs a command, lists what is there afterwards.
_SCRIPT = """
disk=$1 options=$2 after=$3 fill=$4 listing=$5; shift 5
mount -t tmpfs -o "$options" none "$disk" || exit 99
[ "$fill" = 0 ] || head -c "$fill" /dev/zero >"$disk/fill" || exit 98
[ -z "$after" ] || mount -o "remount,$after" "$disk" || exit 97
"$@"
status=$?
(cd "$disk" && find . -mindepth 1 ! -name fill) >"$listing"
exit $status
"""


def on_disk(folder: Path, words: list[str], options: str, *, after: str = "", fill: int = 0):
    """Runs `erc-toolkit WORDS` with a file system in memory at FOLDER/disk; returns the process and what is left."""
    disk, listing = folder / "disk", folder / "listing"
    disk.mkdir()
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", _SCRIPT, "sh", disk, options, after, str(fill), listing]
        + [sys.executable, "-m", "erc_toolkit", *words],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    return done, listing.read_text().splitlines()


def check(name: str, done: subprocess.CompletedProcess, left: list[str], out: Path) -> None:
    message = one_line(done)
    places = [str(out), str(out.with_name(f"{out.stem}_files"))]  # a report's figures
    assert any(place in message for place in places) and message.rstrip().count(";") >= 1, message
    assert not [path for path in left if path.endswith((".tmp", ".space", ".lock"))], left
    if name not in RESUMABLE:
        assert not left, left


@needs_mount
@pytest.mark.parametrize("name", CASES)
def test_a_full_disk(name, material, tmp_path):
    out = tmp_path / "disk" / "out.jsonl"
    words = WRITERS[name].arguments(material, out)
    done, left = on_disk(tmp_path, words, f"size={4 * PAGE}", fill=4 * PAGE)
    check(name, done, left, out)


@needs_mount
@pytest.mark.parametrize("name", EVERY)
def test_a_disk_that_is_full_halfway(name, material, tmp_path):
    writer = WRITERS[name]
    whole = tmp_path / "whole" / "out.jsonl"
    whole.parent.mkdir()
    succeed(*writer.arguments(material, whole))
    size = sum(p.stat().st_size for p in whole.parent.rglob("*"))
    if size <= PAGE:  # all or nothing anyway
        return
    pages = sum(-(-p.stat().st_size // PAGE) + 1 for p in whole.parent.rglob("*"))
    out = tmp_path / "disk" / "out.jsonl"
    done, left = on_disk(tmp_path, writer.arguments(material, out), f"size={max(1, pages // 2) * PAGE}")
    check(name, done, left, out)


@needs_mount
@pytest.mark.parametrize("name", EVERY)
def test_no_inodes(name, material, tmp_path):
    out = tmp_path / "disk" / "out.jsonl"
    done, left = on_disk(tmp_path, WRITERS[name].arguments(material, out), "size=8m,nr_inodes=1")
    check(name, done, left, out)


@needs_mount
@pytest.mark.parametrize("name", CASES)
def test_a_read_only_disk(name, material, tmp_path):
    out = tmp_path / "disk" / "out.jsonl"
    done, left = on_disk(tmp_path, WRITERS[name].arguments(material, out), "size=8m", after="ro")
    check(name, done, left, out)


@needs_mount
@pytest.mark.slow
@pytest.mark.parametrize("free", [0, 64])
def test_a_full_disk_in_demo_and_reduce(free, material, tmp_path):
    out = tmp_path / "disk" / "demo"
    done, left = on_disk(tmp_path, ["demo", str(out)], f"size={(free + 4) * PAGE}", fill=4 * PAGE)
    message = one_line(done)
    assert str(out) in message and not [path for path in left if path.endswith(".tmp")]


@pytest.mark.parametrize("name", EVERY)
def test_a_limit_on_the_size_of_files(name, material, tmp_path):
    out = tmp_path / "disk" / "out.jsonl"
    out.parent.mkdir()
    blocks = 1 if name in (*SLOW, "report") else 0  # libraries of these try whether they can write a few bytes
    words = [sys.executable, "-m", "erc_toolkit", *WRITERS[name].arguments(material, out)]
    done = subprocess.run(
        ["sh", "-c", f'ulimit -f {blocks}; exec "$@"', "sh", *words], capture_output=True, text=True, check=False
    )
    check(name, done, [str(path) for path in out.parent.rglob("*")], out)


@pytest.mark.parametrize("kind", ["below a file", "name too long"])
@pytest.mark.parametrize("name", CASES)
def test_an_impossible_path(name, kind, material, tmp_path):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "out.jsonl" if kind == "below a file" else tmp_path / ("x" * 300)
    done = subprocess.run(
        [sys.executable, "-m", "erc_toolkit", *WRITERS[name].arguments(material, out)],
        capture_output=True,
        text=True,
        check=False,
    )
    message = one_line(done)
    assert str(tmp_path / "file") in message or "x" * 300 in message
    assert [p.name for p in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("number", REMEDIES)
def test_every_fault_of_the_disk_has_a_remedy(number):
    fault = disk_fault(OSError(number, os.strerror(number), "/a/.b.h5.7.tmp"))
    assert isinstance(fault, UserError) and fault.message.startswith("/a/b.h5: ") and REMEDIES[number] in fault.message


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
        OSError("Unable to synchronously write data (file write failed: errno = 28, error message = 'No space')"),
        OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device"),
        FaultError("worker: OSError: [Errno 28] No space left on device"),
    ],
)
def test_libraries_errors_are_recognised_by_their_number(error):
    fault = disk_fault(error, Path("/x/y"))
    assert fault is not None and fault.message.startswith(f"/x/y: {os.strerror(errno.ENOSPC)}")


def test_other_errors_pass():
    for error in (ValueError("28"), OSError(errno.ENOENT, "none", "x"), FaultError("Errno 28"), UserError("Errno 28")):
        with pytest.raises(type(error)) as raised, disk_faults(Path("x")):
            raise error
        assert raised.value is error


def test_another_programs_words_for_a_full_disk():
    said = "[out#0/mp4 @ 0x55da02dc2f00] Error writing trailer: No space left on device\nConversion failed!"
    found = error_in(said, Path("/x/y.mp4"))
    assert found is not None and (found.errno, found.filename) == (errno.ENOSPC, "/x/y.mp4")
    assert error_in("[mov @ 0x1] moov atom not found", Path("/x/y.mp4")) is None
