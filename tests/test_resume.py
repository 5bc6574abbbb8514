"""No finished work is lost: kills, interruptions, dead and hanging workers, full disks, shards, added features."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys

import pytest
from kill_support import run_until

from erc_toolkit.extract.run.assembly import parts_root
from erc_toolkit.extract.run.rows.parts import divide, shard_of
from erc_toolkit.toolkit.base.processes import Failure, run_tasks
from erc_toolkit.toolkit.manifest import Manifest, Utterance
from erc_toolkit.toolkit.store import FeatureStore

SMALL = [
    "--audio-set",
    "eGeMAPSv02",
    "--visual-model",
    "denseface",
    "--visual-weights",
    "random",
    "--face-detector",
    "haar",
    "--part-size",
    "3",
    "--workers",
    "2",
]


def command(raw, out, text_encoder, *more) -> list[str]:
    return [
        str(a)
        for a in (
            sys.executable,
            "-m",
            "erc_toolkit",
            "extract",
            "meld",
            raw,
            "--out",
            out,
            "--text-model",
            text_encoder,
            *SMALL,
            *more,
        )
    ]


def run(*arguments, **options) -> subprocess.CompletedProcess:
    return subprocess.run(*arguments, capture_output=True, text=True, timeout=300, **options)


def content(path) -> str:
    with FeatureStore.open(path) as store:
        store.verify()
        return store.content_hash


@pytest.fixture(scope="module")
def undisturbed_audio(raw, text_encoder, tmp_path_factory) -> str:
    """As `undisturbed`, of the audio alone."""
    out = tmp_path_factory.mktemp("undisturbed") / "s.h5"
    done = run(command(raw, out, text_encoder, "--modalities", "audio"))
    assert done.returncode == 0, done.stderr
    return content(out)


@pytest.fixture(scope="module")
def undisturbed(raw, text_encoder, tmp_path_factory) -> str:
    """Content hash of the store of an uninterrupted run."""
    out = tmp_path_factory.mktemp("undisturbed") / "s.h5"
    done = run(command(raw, out, text_encoder))
    assert done.returncode == 0, done.stderr
    return content(out)


def assert_completed(out, expected: str) -> None:
    """The store equals the undisturbed one, and only temporary files of killed processes are next to it."""
    assert content(out) == expected and not parts_root(out).exists()
    assert [p.name for p in out.parent.iterdir() if not p.name.endswith(".tmp")] == [out.name]


def test_a_killed_extraction_resumes(raw, text_encoder, tmp_path, undisturbed_audio):
    out = tmp_path / "s.h5"
    arguments = command(raw, out, text_encoder, "--modalities", "audio")
    run_until(arguments[3:], "finish", r"audio--eGeMAPSv02/\d+-\w+\.npz$", 3, group=True)
    assert len(list(parts_root(out).glob("audio--*/*.npz"))) == 2 and not out.exists()
    done = run(arguments)
    assert done.returncode == 0 and "resuming" in done.stdout, done.stderr
    assert_completed(out, undisturbed_audio)


# Where an extraction is killed, in turn.
POINTS = [
    ("import", r"^torch$", 1),  # while it loads
    ("finish", r"text--[^/]+/feature\.json$", 1),  # before a feature's folder is marked
    ("finish", r"\.parts/manifest\.jsonl$", 1),
    ("finish", r"text--[^/]+/\d+-\w+\.npz$", 1),  # the first part is written, but not yet renamed
    ("finish", r"audio--[^/]+/\d+-\w+\.npz$", 2),  # between the parts of one folder and the next
    ("finish", r"visual--[^/]+/\d+-\w+\.npz$", 4),
    ("finish", r"/s\.h5$", 1),  # the whole store is written, but not yet renamed
    ("finish", r"/s\.h5$", 1),  # again, when only that is left to do
]


@pytest.mark.slow
def test_kills_at_every_stage(raw, text_encoder, tmp_path, undisturbed):
    """Repeated SIGKILL to the whole process group; the final store equals the undisturbed one."""
    out = tmp_path / "s.h5"
    for event, pattern, count in POINTS:
        run_until(command(raw, out, text_encoder)[3:], event, pattern, count, group=True)
        assert not out.exists()
    done = run(command(raw, out, text_encoder))
    assert done.returncode == 0 and "resuming" in done.stdout, done.stderr
    assert_completed(out, undisturbed)


@pytest.mark.slow
def test_ctrl_c_finishes_the_part_and_explains_how_to_resume(raw, text_encoder, tmp_path, undisturbed):
    out = tmp_path / "s.h5"
    arguments = command(raw, out, text_encoder)
    # To the workers as well, as a terminal does.
    folder = parts_root(out) / "audio--eGeMAPSv02"
    stopped = run_until(arguments[3:], "finish", r"audio--eGeMAPSv02/\d+-\w+\.npz$", 1, how=signal.SIGINT, group=True)
    assert stopped.returncode == 130 and "Traceback" not in stopped.stderr
    assert "run the same command again" in stopped.stderr
    assert list(folder.glob("*.npz")) and not out.exists()
    done = run(arguments)
    assert "resuming" in done.stdout and content(out) == undisturbed


@pytest.mark.slow
def test_shards_join_to_the_same_store(raw, text_encoder, tmp_path, undisturbed):
    """The folders of two machines can be merged; one shard alone is refused."""
    for k in (1, 2):
        assert run(command(raw, tmp_path / f"machine{k}.h5", text_encoder, "--shard", f"{k}/2")).returncode == 0
    merge = [sys.executable, "-m", "erc_toolkit", "merge"]
    folders = [str(parts_root(tmp_path / f"machine{k}.h5")) for k in (1, 2)]
    half = run([*merge, str(tmp_path / "two.h5"), folders[0]])
    assert half.returncode == 1 and "parts missing" in half.stderr and len(half.stderr.splitlines()) == 1
    assert run([*merge, str(tmp_path / "two.h5"), *folders]).returncode == 0
    assert content(tmp_path / "two.h5") == undisturbed


@pytest.mark.slow
def test_other_options_never_mix(raw, text_encoder, tmp_path):
    out = tmp_path / "s.h5"
    assert run(command(raw, out, text_encoder, "--shard", "1/2")).returncode == 0
    refused = run(command(raw, out, text_encoder, "--fps", "2"))
    assert (
        refused.returncode == 1
        and "frames_per_second 5.0, now 2.0" in refused.stderr
        and len(refused.stderr.splitlines()) == 1
    )
    refused = run(command(raw, out, text_encoder, "--pooling", "cls"))
    assert '"mean", now "cls"' in refused.stderr


@pytest.mark.slow
def test_a_second_feature_set_is_added(raw, text_encoder, tmp_path, undisturbed):
    """Only new features are computed, and the old ones are kept bit by bit; a third run computes nothing."""
    out = tmp_path / "s.h5"
    assert run(command(raw, out, text_encoder)).returncode == 0
    with FeatureStore.open(out) as store:
        before = store.feature("visual/denseface").values()
    added = run(command(raw, out, text_encoder, "--audio-set", "GeMAPSv01b"))
    assert added.returncode == 0 and "visual/denseface: already in" in added.stdout
    with FeatureStore.open(out) as store:
        assert {"audio/eGeMAPSv02", "audio/GeMAPSv01b"} < set(store.feature_names())
        assert (store.feature("visual/denseface").values() == before).all()
        store.verify()
    again = run(command(raw, out, text_encoder))
    assert again.returncode == 0 and "nothing to do" in again.stdout
    other = run(command(raw, out, text_encoder, "--fps", "2"))
    assert other.returncode == 1 and "visual/denseface" in other.stderr
    assert "parameters.frames_per_second 5.0, now 2.0" in other.stderr


@pytest.mark.slow
def test_a_full_disk_is_one_line(raw, text_encoder, tmp_path):
    """Full while parts are written, and full while the store is written; in the end nothing is lost."""
    out, arguments = tmp_path / "s.h5", command(raw, tmp_path / "s.h5", text_encoder, "--modalities", "audio")

    def with_room_for(size):
        return run(arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)))

    full = with_room_for(2_000)
    assert full.returncode == 1 and "choose another place" in full.stderr and len(full.stderr.splitlines()) == 1, (
        full.stderr
    )
    assert run([*arguments, "--shard", "1/1"]).returncode == 0
    full = with_room_for((parts_root(out) / "manifest.jsonl").stat().st_size + 1_000)
    assert full.returncode == 1 and "choose another place" in full.stderr and len(full.stderr.splitlines()) == 1, (
        full.stderr
    )
    assert run(arguments).returncode == 0 and content(out)


@pytest.mark.slow
def test_a_damaged_part_is_named(raw, text_encoder, tmp_path):
    out = tmp_path / "s.h5"
    alone = ["--modalities", "audio"]
    assert run(command(raw, out, text_encoder, *alone, "--shard", "1/1")).returncode == 0
    part = next((parts_root(out) / "audio--eGeMAPSv02").glob("*.npz"))
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 255
    part.write_bytes(data)
    done = run([sys.executable, "-m", "erc_toolkit", "merge", str(out)])
    assert done.returncode == 1 and part.name in done.stderr and "run the same command again" in done.stderr
    part.unlink()
    assert run(command(raw, out, text_encoder, *alone)).returncode == 0


@pytest.mark.slow
def test_log_json(raw, text_encoder, tmp_path):
    done = run(command(raw, tmp_path / "s.h5", text_encoder, "--log-json"))
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert {e["stage"] for e in events if e["event"] == "progress"} == {"text", "media"} and events[-1][
        "done"
    ] == events[-1]["total"]


# Workers that fail. These functions run in worker processes.


def nothing() -> None:
    pass


def behave(task: str) -> str:
    if task == "raise":
        raise ValueError("bad weather")
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "hang":
        while True:  # as a library's C code would: no Python signal handler gets through an ignored alarm
            signal.pause()
    return task.upper()


_FAILS = {"raise": "ValueError: bad weather", "die": "SIGKILL", "hang": "longer than 10 s"}


def test_failing_workers_do_not_affect_others():
    tasks = ["a", "die", "b", "raise", "c", "hang", "d", "die", "e"]
    results = list(run_tasks(tasks, behave, 2, set_up=nothing, time_limit=10))
    assert sorted(task for task, _ in results) == sorted(tasks)
    for task, result in results:
        if len(task) == 1:
            assert result == task.upper()
        else:
            assert isinstance(result, Failure) and _FAILS[task] in result.reason


def test_many_dying_workers_are_all_found():
    """Workers die at any moment, also while tasks are handed out."""
    tasks = [("die" if k % 7 == 3 else f"{k}") for k in range(40)]
    results = list(run_tasks(tasks, behave, 2, set_up=nothing, time_limit=20, most_weight=5))
    assert sorted(task for task, _ in results) == sorted(tasks)
    assert all(isinstance(result, Failure) == (task == "die") for task, result in results)


@pytest.mark.slow
def test_a_clip_that_kills_its_worker_is_masked(raw, text_encoder, tmp_path, undisturbed_audio):
    """A worker that dies on one clip: the clip is masked and done again by the next run; --strict refuses it."""
    modules = tmp_path / "modules"  # on the path on purpose: workers import nothing from the script's own folder
    modules.mkdir()
    (modules / "dying.py").write_text(
        "import os, signal\n"
        "import erc_toolkit.extract.run.media.worker\n"
        "def process(job):\n"
        "    if job[1] is not None and job[1].path.name == 'dia1_utt2.mp4':\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return erc_toolkit.extract.run.media.worker.process(job)\n"
    )
    script = tmp_path / "faulty.py"
    script.write_text(
        "import dying, erc_toolkit.extract.run.media_stage\n"
        "erc_toolkit.extract.run.media_stage.process = dying.process\n"
        "from erc_toolkit.toolkit.commands.main import main\n"
        "main()\n"  # not behind `if __name__`: workers do not import the script
    )
    out = tmp_path / "s.h5"
    arguments = command(raw, out, text_encoder, "--modalities", "audio")
    dying = {"env": {**os.environ, "PYTHONPATH": str(modules)}}
    strict = run([sys.executable, str(script), *arguments[3:], "--strict"], **dying)
    assert strict.returncode == 3 and "train_dia1_utt2" in strict.stderr and "died" in strict.stderr, strict.stderr
    assert not out.exists()
    masked = run([sys.executable, str(script), *arguments[3:]], **dying)
    assert masked.returncode == 0 and "resuming" in masked.stdout, masked.stderr
    assert "note: 1 utterance failed" in masked.stdout and "train_dia1_utt2" in masked.stdout
    with FeatureStore.open(out) as store:
        row = store.column("id").tolist().index("train_dia1_utt2")
        reason = store.feature("audio/eGeMAPSv02").reasons()[row]
        assert reason.startswith("its worker failed: needs more memory than there is, or was killed")
    done = run(arguments)
    assert done.returncode == 0 and "1 changed, 0 new" in done.stdout, done.stdout
    assert content(out) == undisturbed_audio


def corpus(files: list[str]) -> Manifest:
    us = [Utterance(str(i), "d", i, "A", "t", None, "train", media=f) for i, f in enumerate(files)]
    return Manifest("x", [], None, us)


def test_parts_cover_every_row_once_and_keep_files_together():
    manifest = corpus([f"{i}.mp4" for i in range(10)] + ["long.mp4"] * 7 + [f"{i}.mp4" for i in range(20, 30)])
    parts = divide(manifest, 4)
    assert [row for part in parts for row in part] == list(range(27))
    assert any(set(range(10, 17)) <= set(part) for part in parts)
    assert max(map(len, divide(corpus(["one.mp4"] * 1000), 4))) == 16
    for n in (1, 2, 3, 5):
        shards = [shard_of(parts, (i, n)) for i in range(1, n + 1)]
        assert sorted(sum(shards, [])) == list(range(len(parts))) and max(map(len, shards)) - min(map(len, shards)) <= 1
