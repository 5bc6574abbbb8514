"""Several features in one run: the numbers of separate runs, each file decoded once, and nothing that is lost."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from features_support import (
    FLAGS,
    LONG_AGO,
    QUICK,
    TEXTS,
    arguments,
    assert_same,
    clips,
    content,
    encoders,
    names,
    run,
    same_rows,
)
from kill_support import run_until
from media_support import read
from test_extractor_packages import clip, site  # noqa: F401 (fixtures)
from text_model_support import make_text_model

from erc_toolkit.extract.corpora.registry import read_corpus
from erc_toolkit.extract.encoders.base import Crops, Samples
from erc_toolkit.extract.encoders.kinds import KINDS
from erc_toolkit.extract.encoders.selection import Options
from erc_toolkit.extract.run.assembly import merge, parts_root
from erc_toolkit.extract.run.extractors import RunExtractors
from erc_toolkit.extract.run.media import pictures, second_pass, worker
from erc_toolkit.extract.run.media.requests import Span, Task
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.media import MediaReader
from erc_toolkit.toolkit.store import FeatureStore


def call(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == code and "Traceback" not in result.output, result.output
    return result.output


@pytest.fixture(scope="module")
def seven(tmp_path_factory) -> dict[str, str]:
    return encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="module")
def six_clips(intact, tmp_path_factory):
    return clips(tmp_path_factory.mktemp("six") / "clips", intact)


@pytest.fixture(scope="module")
def undisturbed(six_clips, seven, tmp_path_factory) -> Path:
    """A store of the seven features of six clips; do not change it."""
    out = tmp_path_factory.mktemp("undisturbed") / "s.h5"
    run(six_clips, out, seven.values())
    return out


@pytest.mark.slow
def test_seven_features_in_one_run_are_those_of_seven_runs(raw, seven, tmp_path):
    """Of the demo corpus with every kind of defect; also in another order, and with the defaults' part size."""
    manifest = read_corpus("meld", raw)
    more = {"part_size": 8, "workers": 2}
    summary, _ = run(manifest, tmp_path / "one.h5", seven.values(), **more)
    assert set(summary.features) == set(names(tmp_path / "one.h5")) == set(seven)
    for number, (name, line) in enumerate(seven.items()):
        run(manifest, tmp_path / f"{number}.h5", [line], **more)
        assert names(tmp_path / f"{number}.h5") == [name]
        assert_same(tmp_path / "one.h5", tmp_path / f"{number}.h5", name)
    run(manifest, tmp_path / "order.h5", reversed(seven.values()), **more)
    assert content(tmp_path / "order.h5") == content(tmp_path / "one.h5")
    with FeatureStore.open(tmp_path / "one.h5") as store:
        masked = {name: {r.split(":")[0] for r in store.feature(name).reasons() if r} for name in seven}
    assert {"unreadable file", "missing file", "empty file", "silent audio"} <= masked["audio/wavlm"]
    assert masked["audio/wavlm"] == masked["audio/prosody"] == masked["audio/eGeMAPSv02"]
    assert {"black frames", "no face found", "no video track"} <= masked["visual/vit"] == masked["visual/denseface"]
    assert masked["visual/videomae"] == masked["visual/vit"] and not masked["text/words"]


@pytest.mark.slow
def test_sequences_of_several_features(six_clips, seven, tmp_path):
    lines = {name: line.replace("layers=each", "layers=1-2") for name, line in seven.items()}
    run(six_clips, tmp_path / "one.h5", lines.values(), sequences=True)
    for name, line in lines.items():
        run(six_clips, tmp_path / "alone.h5", [line], sequences=True, overwrite=True)
        assert_same(tmp_path / "one.h5", tmp_path / "alone.h5", name)
        with FeatureStore.open(tmp_path / "alone.h5") as store:
            assert store.feature(name).has_sequences == (not name.startswith("text/"))


def test_a_file_is_opened_once_and_a_frame_is_looked_at_once(clip, seven, monkeypatch):  # noqa: F811
    """For three features of faces and three of audio, though two utterances overlap; and what is taken is the same."""
    opened, detected = [], Counter[float]()

    class Counting(MediaReader):
        def __init__(self, path, **options):
            opened.append(path)
            super().__init__(path, **options)

    real = pictures._detector

    def counting(kind, model, smallest):
        detect = real(kind, model, smallest)

        def counted(image):
            detected[float(image.astype("int64").sum()), image.tobytes()] += 1
            return detect(image)

        return counted

    for module in (worker, second_pass):
        monkeypatch.setattr(module, "MediaReader", Counting)
    monkeypatch.setattr(pictures, "_detector", counting)
    media = {name: line for name, line in seven.items() if not name.startswith("text/")}
    options = Options(features=tuple(media.values()), **{**QUICK, "fps": 5.0, "speaker_choice": "motion"})
    extractors = RunExtractors.make(options)
    spans = [(0.5, 3.0), (2.0, 5.0), (0.0, 0.9)]
    task = Task(clip, [Span(i, a, b, None, tuple(media)) for i, (a, b) in enumerate(spans)])
    request = extractors.request(media)
    assert sum(isinstance(one, Crops) for one in request.wants.values()) == 3
    assert sum(isinstance(one, Samples) for one in request.wants.values()) == 3
    together = worker.process((0, task, request))
    _, frames = read(clip, fps=5.0)
    covered = sum(any(a <= time <= b for a, b in spans) for time, _ in frames)
    assert opened == [clip] and covered > 20
    assert sum(detected.values()) == covered and max(detected.values()) == 1
    assert set(together.seconds) >= {"decoding", "faces and frames", "audio/eGeMAPSv02", "audio/prosody"}

    for i, (start, end) in enumerate(spans):
        for name in media:
            alone = Task(clip, [Span(i, start, end, None, (name,))])
            (own,) = worker.process((0, alone, extractors.request([name]))).utterances
            mine, theirs = together.utterances[i].taken[name], own.taken[name]
            assert (mine.reason, mine.details) == (theirs.reason, theirs.details) and not mine.reason
            if mine.result is not None:
                assert (mine.result.values == theirs.result.values).all()
            elif isinstance(request.wants[name], Samples):
                assert (mine.given.samples == theirs.given.samples).all()
            else:
                assert (mine.given.images == theirs.given.images).all()
                assert (mine.given.times == theirs.given.times).all() and len(mine.given.times) >= 4
    assert len(opened) == 1 + len(spans) * len(media)


def test_two_features_of_one_name(six_clips, tmp_path):
    two = ["face:denseface@weights=random", "face:denseface@weights=random,normalisation=100,20"]
    with pytest.raises(UserError, match=r"^--feature face:.*=100,20: visual/denseface is asked for twice.*@name=NAME$"):
        run(six_clips, tmp_path / "s.h5", two)
    assert not list(tmp_path.iterdir())
    run(six_clips, tmp_path / "s.h5", [two[0], f"{two[1]},name=other"])
    assert names(tmp_path / "s.h5") == ["visual/denseface", "visual/other"]
    assert not any(same_rows_of(tmp_path / "s.h5", "visual/denseface", "visual/other"))
    run(six_clips, tmp_path / "alone.h5", [two[1]])
    with FeatureStore.open(tmp_path / "s.h5") as store, FeatureStore.open(tmp_path / "alone.h5") as alone:
        named, plain = store.feature("visual/other"), alone.feature("visual/denseface")
        assert named.values().tobytes() == plain.values().tobytes()
        for key in ("model", "parameters", "weights_sha256"):
            assert named.attrs[key] == plain.attrs[key]
    with pytest.raises(UserError) as error:  # of another run
        run(six_clips, tmp_path / "s.h5", [f"{two[0]},normalisation=1,2"])
    assert "give this one a name with @name=NAME" in error.value.message and "\n" not in error.value.message
    with pytest.raises(UserError) as error:
        run(six_clips, tmp_path / "s.h5", [f"{two[0]},normalisation=1,2,name=other"])
    assert "visual/other was extracted with" in error.value.message
    _, lines = run(six_clips, tmp_path / "s.h5", [two[0], f"{two[1]},name=other"])
    assert "nothing to do" in lines[-1]
    # A name with a slash is the same with two dashes, as in the store.
    with pytest.raises(UserError, match="audio/a--b is asked for twice"):
        run(six_clips, tmp_path / "t.h5", ["prosody@name=a/b", "opensmile:IS09@name=a--b"])
    run(six_clips, tmp_path / "t.h5", ["prosody@name=a/b"])
    assert "nothing to do" in run(six_clips, tmp_path / "t.h5", ["prosody@name=a--b"])[1][-1]


def test_two_poolings_of_one_model(six_clips, tmp_path):
    """Their matrices have other names, but not they themselves: one needs a name, so that neither is mistaken."""
    model = make_text_model(tmp_path / "four", "roberta", TEXTS * 3, layers=4)
    lines = [f"text:{model}@pooling=last4", f"text:{model}@pooling=mean"]
    with pytest.raises(UserError, match="pooling=mean: text/four is asked for twice; give one of them a name"):
        run(six_clips, tmp_path / "s.h5", lines)
    run(six_clips, tmp_path / "s.h5", [f"{lines[0]},name=layers", lines[1]])
    assert names(tmp_path / "s.h5") == ["text/four", *(f"text/layers-{i}" for i in (1, 2, 3, 4))]
    for line, of in ((lines[0], "four-1"), (lines[1], "four")):
        run(six_clips, tmp_path / f"{of}.h5", [line])
        mine = f"text/{of.replace('four-', 'layers-')}"
        with FeatureStore.open(tmp_path / "s.h5") as store, FeatureStore.open(tmp_path / f"{of}.h5") as other:
            assert (store.feature(mine).values() == other.feature(f"text/{of}").values()).all()


def test_an_extractor_that_names_its_own_matrices(site, six_clips, tmp_path):  # noqa: F811
    with pytest.raises(UserError, match="'Twice' of package my_package 1.2.*names its matrices itself"):
        run(six_clips, tmp_path / "s.h5", ["Twice@name=other"])
    run(six_clips, tmp_path / "s.h5", ["Twice"])
    assert names(tmp_path / "s.h5") == ["audio/twice-a", "audio/twice-b"]


def test_a_refused_run_leaves_nothing(six_clips, seven, tmp_path):
    """Not even of the features before the refused one, so that the next run may have other options of them."""
    out = tmp_path / "s.h5"
    run(six_clips, out, ["opensmile:IS09@name=a"])
    wavlm = folder(seven["audio/wavlm"])
    with pytest.raises(UserError, match="audio/a was extracted with"):
        run(six_clips, out, [f"speech:{wavlm}@layers=1-2", "opensmile:IS10@name=a"])
    assert [path.name for path in tmp_path.iterdir()] == ["s.h5"]
    run(six_clips, out, [f"speech:{wavlm}@layers=1-2"], shard=(1, 2))  # unfinished work is kept
    with pytest.raises(UserError, match="audio/a was extracted with"):
        run(six_clips, out, ["prosody", f"speech:{wavlm}@layers=1-2", "opensmile:IS10@name=a"])
    assert {path.name for path in parts_root(out).iterdir() if path.is_dir()} == {"audio--wavlm"}
    with pytest.raises(UserError, match=r"audio--wavlm: contains unfinished work with dim 32, now 96"):
        run(six_clips, out, [f"speech:{wavlm}@layers=each"])


def same_rows_of(path: Path, one: str, other: str) -> list[bool]:
    with FeatureStore.open(path) as store:
        pairs = zip(store.feature(one).values(), store.feature(other).values(), strict=True)
        return [(a == b).all() for a, b in pairs]


@pytest.mark.slow
def test_an_eighth_feature_is_added_and_the_others_are_kept(six_clips, seven, undisturbed, tmp_path):
    out = tmp_path / "s.h5"
    shutil.copyfile(undisturbed, out)
    summary, lines = run(six_clips, out, [*seven.values(), "opensmile:IS09"])
    assert [line for line in lines if "already in" in line and line.startswith(tuple(seven))] and len(
        [line for line in lines if "already in" in line]
    ) == len(seven)
    assert set(summary.costs.work) <= {"decoding", "moving lips", "faces and frames", "audio/IS09"}
    assert not summary.costs.work.get("faces and frames") and summary.costs.work["audio/IS09"] > 0
    for name in seven:
        assert_same(out, undisturbed, name)
    # Without some of them: they are kept; and with them again, nothing is left to do.
    _, lines = run(six_clips, out, ["prosody", "opensmile:eGeMAPSv02@name=again"])
    assert set(names(out)) == {*seven, "audio/IS09", "audio/again"}
    for name in seven:
        assert_same(out, undisturbed, name)
    assert "nothing to do" in run(six_clips, out, [*seven.values(), "opensmile:IS09"])[1][-1]


@pytest.mark.slow
def test_a_changed_clip_is_done_again_in_every_media_feature(intact, six_clips, seven, undisturbed, tmp_path):
    manifest = clips(tmp_path / "clips", intact)
    out, whole = tmp_path / "s.h5", tmp_path / "whole.h5"
    shutil.copyfile(undisturbed, out)
    assert "nothing to do" in run(manifest, out, seven.values())[1][-1]  # a copy of the corpus
    # By itself, as a row that is done again has other neighbours in its batch than in a run of all.
    run(manifest, whole, seven.values(), alone=True)
    shutil.copyfile(whole, out)
    other = sorted((intact / "train_splits").glob("dia*.mp4"))[7]
    shutil.copyfile(other, manifest.root / "u3.mp4")
    os.utime(manifest.root / "u3.mp4", (LONG_AGO + 5, LONG_AGO + 5))
    _, lines = run(manifest, out, seven.values(), alone=True)
    media = [name for name in seven if not name.startswith("text/")]
    for name in media:
        assert f"{name}: 1 changed, 0 new, 5 unchanged, 0 gone" in lines
        assert same_rows(out, whole, name) == [True, True, True, False, True, True]
    assert_same(out, whole, "text/words")
    run(manifest, tmp_path / "fresh.h5", seven.values(), alone=True)
    for name in seven:
        assert_same(out, tmp_path / "fresh.h5", name)
    assert content(out) == content(tmp_path / "fresh.h5")


# Where a run with seven features is killed, in turn.
POINTS = [
    (r"audio--wavlm/\d+-\w+\.npz$", 1),
    (r"visual--vit/\d+-\w+\.npz$", 1),  # others of the same part are there already
    (r"visual--videomae/\d+-\w+\.npz$", 2),
    (r"/s\.h5$", 1),
]


@pytest.mark.slow
def test_killed_half_way_and_resumed(six_clips, seven, undisturbed, tmp_path):
    out = tmp_path / "s.h5"
    words = arguments(six_clips, out, seven.values())
    counts = []
    for pattern, count in POINTS:
        run_until(words, "finish", pattern, count, group=True)
        assert not out.exists()
        counts.append(len(list(parts_root(out).glob("*/*.npz"))))
    assert counts == sorted(counts) and 0 < counts[0] < counts[-1] == 3 * 6 + 2
    assert re.search(r"^resuming: 20 of 20 parts done$", call(*words), re.MULTILINE)
    assert content(out) == content(undisturbed) and not parts_root(out).exists()
    for name in seven:
        assert_same(out, undisturbed, name)


@pytest.mark.slow
def test_shards_of_seven_features_join_to_the_same_store(six_clips, seven, undisturbed, tmp_path):
    for i in (1, 2):
        run(six_clips, tmp_path / f"machine{i}.h5", seven.values(), shard=(i, 2))
    roots = [parts_root(tmp_path / f"machine{i}.h5") for i in (1, 2)]
    with pytest.raises(UserError, match="parts? missing"):
        merge(tmp_path / "s.h5", roots[:1])
    merge(tmp_path / "s.h5", roots)
    assert content(tmp_path / "s.h5") == content(undisturbed)
    for name in seven:
        assert_same(tmp_path / "s.h5", undisturbed, name)
    assert "nothing to do" in run(six_clips, tmp_path / "s.h5", seven.values())[1][-1]


def folder(line: str) -> str:
    return line.split(":", 1)[1].split("@")[0]


SHORT = {  # options, and the lines that they are short for
    "speech": (["--modalities", "audio", "--audio-model", "{audio/wavlm}", "--layers", "each"], ["audio/wavlm"]),
    "prosody": (["--modalities", "audio", "--audio-set", "prosody"], ["audio/prosody"]),
    "several": (
        "--text-model {text/words} --text-context 1 --audio-set eGeMAPSv02 --visual-model denseface "
        "--visual-weights random".split(),
        ["text/words", "audio/eGeMAPSv02", "visual/denseface"],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", SHORT)
def test_the_options_are_short_forms(six_clips, seven, undisturbed, tmp_path, form):
    """Values, provenance and the options that `predict` would take are the same."""
    options, features = SHORT[form]
    words = [re.sub(r"\{(.+)\}", lambda found: folder(seven[found[1]]), word) for word in options]
    call("extract", "manifest", six_clips.root / "m.jsonl", "--out", tmp_path / "s.h5", *FLAGS, *words)
    assert names(tmp_path / "s.h5") == sorted(features)
    for name in features:
        assert_same(tmp_path / "s.h5", undisturbed, name)
    assert "nothing to do" in call(*arguments(six_clips, tmp_path / "s.h5", [seven[name] for name in features]))


def test_an_image_model_by_its_options_and_by_a_line_is_the_same_feature(six_clips, seven, tmp_path):
    """Of the options that are recorded only the kind is said in another way."""
    words = ["--modalities", "visual", "--visual-model", folder(seven["visual/vit"])]
    call("extract", "manifest", six_clips.root / "m.jsonl", "--out", tmp_path / "s.h5", *FLAGS, *words)
    run(six_clips, tmp_path / "line.h5", [seven["visual/vit"]])
    assert_same(tmp_path / "s.h5", tmp_path / "line.h5", "visual/vit", without=("options",))
    assert "nothing to do" in call(*arguments(six_clips, tmp_path / "s.h5", [seven["visual/vit"]]))


def test_the_closing_table_says_what_the_work_was(six_clips, seven, tmp_path):
    lines = [seven[name] for name in ("text/words", "audio/prosody", "audio/wavlm", "visual/denseface")]
    output = call(*arguments(six_clips, tmp_path / "s.h5", lines))
    rows = re.search(r"^work +seconds +share\n((?:.+ \d+%\n)+)", output, re.MULTILINE)[1].splitlines()
    found = {}
    for row in rows:
        name, seconds, share = re.fullmatch(r"(\S.*?) +(\d+\.\d) +(\d+)% *", row).groups()
        found[name] = float(seconds), int(share)
    wanted = {"text/words", "audio/prosody", "audio/wavlm", "visual/denseface", "decoding", "faces and frames"}
    assert set(found) - {"moving lips"} == wanted
    assert abs(sum(share for _, share in found.values()) - 100) <= len(found) / 2
    assert [seconds for seconds, _ in found.values()] == sorted((s for s, _ in found.values()), reverse=True)
    assert "nothing to do" in (again := call(*arguments(six_clips, tmp_path / "s.h5", lines)))
    assert not re.search(r"^work +seconds", again, re.MULTILINE)


def test_the_list_of_kinds(site):  # noqa: F811
    """Every kind with its licence and what it needs; another package's, and why a broken one cannot be used."""
    output = call("extractors")
    blocks = {block.split(" ", 1)[0].rstrip(":"): block for block in re.split(r"\n(?=\S)", output)}
    assert list(blocks)[: len(KINDS)] == list(KINDS)
    for name, kind in KINDS.items():
        assert blocks[name].startswith(f"{name} ({kind.modality}): ") and f"licence: {kind.licence}" in blocks[name]
        for key in kind.keys:
            assert re.search(rf"keys: .*\b{key}\b", blocks[name])
        assert "example:" in blocks[name] and "needs:" in blocks[name] and "extra:" in blocks[name]
    assert "audEERING" in blocks["opensmile"] and "audEERING" in blocks["prosody"]
    assert "package my_package 1.2" in blocks["loudness"] and "window, scale, name" in blocks["loudness"]
    why = r"absent: cannot be used: extractor 'absent' of package my_package 1.2.*my_package_2"
    assert re.match(why, blocks["absent"])
    assert "function: cannot be used" in output and "gone: cannot be used" in output


def test_another_packages_extractor_beside_ours(site, six_clips, tmp_path):  # noqa: F811
    run(six_clips, tmp_path / "s.h5", ["loudness@window=0.1", "prosody", "loudness@window=0.2,name=slow"])
    assert names(tmp_path / "s.h5") == ["audio/loudness", "audio/prosody", "audio/slow"]
    run(six_clips, tmp_path / "two.h5", ["loudness@window=0.2"])
    with FeatureStore.open(tmp_path / "s.h5") as store, FeatureStore.open(tmp_path / "two.h5") as other:
        assert (store.feature("audio/slow").values() == other.feature("audio/loudness").values()).all()
        assert (store.feature("audio/slow").values() != store.feature("audio/loudness").values()).any()
    with pytest.raises(UserError, match="loudness.*'colour'"):
        run(six_clips, tmp_path / "x.h5", ["loudness@colour=red"])
