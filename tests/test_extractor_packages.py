"""Extractors of other packages: the example of docs/how-to/extractors.md up to `predict`, and violated contracts."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from erc_toolkit.extract.encoders.registry import EXTRACTORS, extractors, find_extractor
from erc_toolkit.extract.encoders.selection import Options, built_in_extractor
from erc_toolkit.extract.recording import recorded_options
from erc_toolkit.extract.run.assembly import parts_root
from erc_toolkit.extract.run.engine import extract
from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.commands.main import main
from erc_toolkit.toolkit.manifest import Manifest, Utterance, write_manifest
from erc_toolkit.toolkit.store import FeatureStore
from erc_toolkit.toolkit.store.summary import unpacked

DOCUMENT = (Path(__file__).resolve().parents[1] / "docs/how-to/extractors.md").read_text(encoding="utf-8")
EXAMPLE = re.search(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)[1]
ENTRY = re.search(r'^\[project.entry-points."(.+)"\]\n(\S+) = "(.+)"$', DOCUMENT, re.MULTILINE)

MORE = '''
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from erc_toolkit.extract.encoders.base import (
    CheckedOptions, Crops, Extracted, Extractor, Frames, Samples, Texts, option
)


class Simple(Extractor):
    """Keeps the contract; the classes below change one thing each."""

    modality = "audio"
    wants, dim = Samples(16_000), 2

    def __init__(self, options, setup):
        self.name = "simple"

    def extract(self, utterances, done):
        for one in utterances:
            yield Extracted(np.ones(self.dim, np.float32))

    def provenance(self):
        return {"model": "ones"}


class Twice(Simple):
    @property
    def matrices(self):
        return {"twice-a": {"layer": "a"}, "twice-b": {"layer": "b"}}

    def extract(self, utterances, done):
        for one in utterances:
            yield Extracted(np.arange(4, dtype=np.float32))


def rate_in_worker(factor, span):
    return Extracted(np.array([span.rate, factor], np.float32))


class InWorkers(Simple):
    def __init__(self, options, setup):
        self.name, self.wants = "in-workers", Samples(None, in_workers=functools.partial(rate_in_worker, 7))

    def extract(self, utterances, done):
        raise AssertionError("runs elsewhere")


class OtherRate(Simple):
    wants = Samples(8_000)

    def extract(self, utterances, done):
        for span in utterances:
            yield Extracted(np.array([span.rate, len(span.samples)], np.float32))


class Words(Simple):
    modality, wants = "text", Texts(context=2)

    def extract(self, turns, done):
        for turn in turns:
            yield Extracted(np.array([len(turn.text), len(turn.before)], np.float32))
            done(1)


class FaceShade(Simple):
    modality, wants = "visual", Crops(side=20, grey=True)

    def extract(self, series, done):
        for one in series:
            assert one.images.shape[1:] == (20, 20) and len(one.images) == len(one.times)
            yield Extracted(np.array([one.images.mean(), one.images.std()], np.float32))


class Scene(Simple):
    modality, wants, gives_sequences = "visual", Frames(16, 12), True

    def __init__(self, options, setup):
        self.name, self.frame_width = "scene", 3 * setup.sequences

    def extract(self, series, done):
        for one in series:
            assert one.images.shape[1:] == (12, 16, 3)
            colours = one.images.mean((1, 2))
            yield Extracted(np.array([colours.mean(), len(one.times)], np.float32), "", colours, one.times)


class FromFile(Simple):
    @dataclass(frozen=True)
    class Options(CheckedOptions):
        weights: Path | None = option(None, help="A file.")
        batch: int = option(8, low=1, help="Utterances at once.", changes_numbers=False)

    def __init__(self, options, setup):
        self.name, self.value = "from-file", float(options.weights.read_text())

    def extract(self, utterances, done):
        return [Extracted(np.full(2, self.value, np.float32)) for one in utterances]


class NoExtract(Extractor):
    modality = "audio"

    def provenance(self):
        return {"model": "x"}


class NoModality(NoExtract):
    modality = "smell"

    def extract(self, utterances, done):
        return []


class NoName(Simple):
    def __init__(self, options, setup):
        pass


class NoDim(NoModality):
    modality = "audio"

    def __init__(self, options, setup):
        self.name, self.wants = "x", Samples()


class ZeroDim(Simple):
    dim = 0


class WrongWants(Simple):
    wants = Crops(side=10)


class NoWants(Simple):
    wants = "samples"


class WorkerRate(Simple):
    wants = Samples(8_000, in_workers=rate_in_worker)


class WrongDetails(Simple):
    details = {"seconds": np.float32}


class TextDetails(Simple):
    details = {"mood": str}


class WrongNames(Simple):
    dimension_names = ["one"]


class WrongFrameWidth(Simple):
    frame_width = 3


class WrongLayers(Simple):
    layer_count = 4


class NoModel(Simple):
    def provenance(self):
        return {"parameters": {}}


class NoJson(Simple):
    def provenance(self):
        return {"model": "x", "parameters": {"a": {1, 2}}}


class Raises(Simple):
    def __init__(self, options, setup):
        raise RuntimeError("no licence\\nsecond line")


class PlainOptions(Simple):
    class Options:
        size = 3


class ListOptions(Simple):
    @dataclass(frozen=True)
    class Options(CheckedOptions):
        sizes: list[int] = option((), help="")


class TooFew(Simple):
    def extract(self, utterances, done):
        return []


class WrongShape(Simple):
    def extract(self, utterances, done):
        return [Extracted(np.ones(5, np.float32)) for one in utterances]


class NoReason(Simple):
    def extract(self, utterances, done):
        return [Extracted(None) for one in utterances]


class OddDetail(Simple):
    def extract(self, utterances, done):
        return [Extracted(np.ones(2, np.float32), details={"mood": 1}) for one in utterances]


class Arrays(Simple):
    def extract(self, utterances, done):
        return np.ones((len(utterances), 2), np.float32)


class NoFrames(Simple):
    gives_sequences = True

    def __init__(self, options, setup):
        self.name, self.frame_width = "x", 2 * setup.sequences


def function():
    """Not a class."""
'''


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Another package on sys.path, with pip's metadata: the manual's example, and a module with more extractors."""
    site = tmp_path / "site"
    (site / "my_package").mkdir(parents=True)
    (site / "my_package-1.2.dist-info").mkdir()
    (site / "my_package/loudness.py").write_text(EXAMPLE)
    (site / "my_package/more.py").write_text(MORE)
    names = [*re.findall(r"^class (\w+)\(", MORE, re.MULTILINE), "function", "gone"]
    (site / "my_package-1.2.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: my_package\nVersion: 1.2\n")
    (site / "my_package-1.2.dist-info/entry_points.txt").write_text(
        f"[{ENTRY[1]}]\n{ENTRY[2]} = {ENTRY[3]}\nopensmile = {ENTRY[3]}\nabsent = my_package_2:X\n"
        + "".join(f"{name} = my_package.more:{name}\n" for name in names)
    )
    monkeypatch.syspath_prepend(str(site))
    yield site
    for name in [name for name in sys.modules if name.split(".")[0] == "my_package"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Six seconds of one face and noise of changing loudness; the last second is silent."""
    import cv2

    from erc_toolkit.toolkit.demo.clips import write_clip
    from erc_toolkit.toolkit.demo.faces import render
    from erc_toolkit.toolkit.demo.looks import speaker_look
    from erc_toolkit.toolkit.demo.script import FPS, SPEAKERS

    rng = np.random.default_rng(0)
    loudness = np.repeat(rng.uniform(0.2, 1, 6 * FPS // 3), 3)
    images, _ = render(speaker_look(0, SPEAKERS[0]), "neutral", loudness, rng)
    samples = np.repeat(loudness, 48_000 // FPS) * rng.normal(0, 0.2, len(loudness) * (48_000 // FPS))
    samples[-len(samples) // 6 - 4_800 :] = 0
    path = tmp_path_factory.mktemp("media") / "clip.mp4"
    write_clip(path, [cv2.resize(image, (320, 240)) for image in images], samples.astype(np.float32), fps=FPS)
    return path


def corpus(clip: Path) -> Manifest:
    """Three dialogues of four turns of a second, all in the one clip."""
    rows = [
        Utterance(
            f"d{d}_{i}",
            f"d{d}",
            i,
            "AB"[i % 2],
            f"word {i}",
            ("joy", "rage")[(i + d) % 2],
            ("train", "val", "test")[d],
            media=clip.name,
            start=float(i + (d == 2)),
            end=float(i + (d == 2)) + 0.9,
        )
        for d in range(3)
        for i in range(4)
    ]
    return Manifest("small", ["joy", "rage"], clip.parent, rows)


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == code and "Traceback" not in result.output, result.output
    return result.output


def values_of_run(out: Path, clip: Path, name: str, modality: str = "audio", **options) -> dict[str, np.ndarray]:
    """Values by feature of a run with one extractor."""
    manifest = corpus(clip)
    extract(
        manifest,
        out,
        Options(modalities=(modality,), extractors=(name,), face_detector="haar", workers=1, **options),
        notify=lambda line: None,
    )
    with FeatureStore.open(out) as store:
        store.verify()
        return {feature: store.feature(feature).values() for feature in store.feature_names()}


def test_the_manuals_extractor_from_extraction_to_predict(site, clip, tmp_path, monkeypatch):
    write_manifest(corpus(clip), clip.parent / "m.jsonl")
    out = tmp_path / "s.h5"
    command = ["extract", "manifest", clip.parent / "m.jsonl", "--out", out, "--modalities", "audio", "--workers", 1]
    command += ["--extractor", "loudness", "--sequences", "--extractor-option", "loudness.window=0.1"]
    assert "root mean square of windows, 3 dimensions" in run(*command)
    with FeatureStore.open(out) as store:
        store.verify()
        feature = store.feature("audio/loudness")
        assert feature.dimension_names() == ["mean", "deviation", "maximum"] and feature.present().sum() > 8
        row = int(np.flatnonzero(feature.present())[0])
        frames, times = feature.sequence(row)
        assert feature.details()["windows"][row] == len(frames) == 9 and times[1] == pytest.approx(0.1)
        assert feature.details()["seconds"][row] == pytest.approx(0.9)
        assert feature.values()[row, 0] == pytest.approx(frames.mean(), rel=1e-5)
        recorded = unpacked(feature.attrs["options"])
        parameters = unpacked(feature.attrs["parameters"])
        assert parameters["options"] == {"window": 0.1, "scale": "decibel"} and parameters["sample_rate_hz"] == 16000
        assert feature.attrs["extractor"] == "loudness" and unpacked(feature.attrs["versions"])["ffmpeg"]
        hash_one = store.content_hash
    assert recorded == {
        "extractor": "loudness",
        "extractor_package": "my_package 1.2",
        "loudness.window": 0.1,
        "loudness.scale": "decibel",
        "precision": "float32",
    }
    options = recorded_options("audio", recorded)
    assert options.extractors == ("loudness",) and options.extractor_options["loudness.window"] == 0.1
    assert "already in" in run(*command)  # nothing is left to do; with other options it is not the same feature
    assert "window 0.1, now 0.2" in run(*command[:-1], "loudness.window=0.2", code=1)
    (tmp_path / "again").mkdir()
    run(*[tmp_path / "again/s.h5" if a == out else a for a in command])
    with FeatureStore.open(tmp_path / "again/s.h5") as store:
        assert store.content_hash == hash_one

    train = ["--recipe", "demo", "--set", "train.epochs=1", "--set", "data.modalities=[audio]"]
    run("train", out, "--out", tmp_path / "run", *train, "--set", "data.audio=loudness")
    (tmp_path / "clip.srt").write_text("1\n00:00:00,000 --> 00:00:01,500\nAnn: Hi.\n")
    predict = ["predict", tmp_path / "run", clip, "--transcript", tmp_path / "clip.srt", "--out", tmp_path / "o"]
    assert "Ann: Hi." in run(*predict)
    with FeatureStore.open(tmp_path / "o/features.h5") as store:
        assert store.feature("audio/loudness").details()["windows"].tolist() == [15]
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(site)])
    output = run(*predict[:-1], tmp_path / "p", code=1)
    assert "'loudness' of package my_package 1.2" in output and "not installed" in output


def test_the_manuals_extractor_beside_others_in_one_pass(site, clip, tmp_path):
    """As a line and with --extractor it is the same feature, and the command lists it with its options."""
    write_manifest(corpus(clip), clip.parent / "m.jsonl")
    command = ["extract", "manifest", clip.parent / "m.jsonl", "--workers", 1, "--out"]
    one = ["--feature", "loudness@window=0.1", "--feature", "loudness@window=0.2,name=slow", "--feature", "prosody"]
    printed = run(*command, tmp_path / "one.h5", *one)
    assert all(name in printed for name in ("decoding", "audio/loudness", "audio/slow", "audio/prosody"))
    alone = ["--modalities", "audio", "--extractor", "loudness", "--extractor-option", "loudness.window=0.1"]
    run(*command, tmp_path / "alone.h5", *alone)
    with FeatureStore.open(tmp_path / "one.h5") as store, FeatureStore.open(tmp_path / "alone.h5") as other:
        assert store.feature_names() == ["audio/loudness", "audio/prosody", "audio/slow"]
        values = store.feature("audio/loudness").values()
        np.testing.assert_array_equal(values, other.feature("audio/loudness").values())
        assert not np.array_equal(values, store.feature("audio/slow").values())
    assert re.search(r"^loudness \(audio\).*\n.*\n  keys: +window, scale, name$", run("extractors"), re.MULTILINE)


@pytest.mark.parametrize(
    "change, wanted",
    [
        ({"extractor": "opensmile"}, "built in"),
        ({"extractor": "Words"}, "extracts text"),
        ({"extractor": 3}, "3"),
        ({"loudness.window": 9.0}, "window"),
        ({"loudness.window": "x"}, "window"),
        ({"loudness.colour": "x"}, "'colour'"),
        ({"save_crops": "/tmp"}, "'save_crops'"),
        ({"audio_set": "IS10"}, "'audio_set'"),
        ({"other.window": 1.0}, "'other.window'"),
    ],
)
def test_a_package_can_only_set_the_extractors_options(site, change, wanted):
    recorded = {"extractor": "loudness", "loudness.window": 0.5, "precision": "float32"}
    assert recorded_options("audio", recorded).extractors == ("loudness",)
    with pytest.raises(UserError, match=re.escape(wanted)) as error:
        recorded_options("audio", {**recorded, **change})
    assert "\n" not in error.value.message


def test_every_kind_of_input(site, clip, tmp_path):
    found = values_of_run(tmp_path / "a.h5", clip, "Twice")
    assert (found["audio/twice-a"][0] == [0, 1]).all() and (found["audio/twice-b"][0] == [2, 3]).all()
    found = values_of_run(tmp_path / "b.h5", clip, "InWorkers")["audio/in-workers"]
    assert (found[0] == [48_000, 7]).all()
    found = values_of_run(tmp_path / "c.h5", clip, "OtherRate")["audio/simple"]
    assert found[0].tolist() == [8_000, 7_200]
    found = values_of_run(tmp_path / "d.h5", clip, "Words", "text")["text/simple"]
    assert found[:4].tolist() == [[6, 0], [6, 1], [6, 2], [6, 2]]
    found = values_of_run(tmp_path / "e.h5", clip, "FaceShade", "visual")["visual/simple"]
    assert (found[0] > 1).all()
    found = values_of_run(tmp_path / "f.h5", clip, "Scene", "visual", sequences=True, fps=4.0)["visual/scene"]
    with FeatureStore.open(tmp_path / "f.h5") as store:
        feature = store.feature("visual/scene")
        frames, times = feature.sequence(0)
        assert found[0, 1] == len(frames) == 4 and frames.mean() == pytest.approx(found[0, 0], rel=1e-4)
        assert feature.details()["frames"][0] == 4 and times[1] == pytest.approx(0.25)
        recorded = unpacked(feature.attrs["options"])
        assert recorded["fps"] == 4.0 and "face_detector" not in recorded
    with FeatureStore.open(tmp_path / "e.h5") as store:
        assert unpacked(store.feature("visual/simple").attrs["parameters"])["crop_pixels"] == 20
        assert unpacked(store.feature("visual/simple").attrs["options"])["face_detector"] == "haar"
        assert store.feature("visual/simple").details()["faces"][0] > 0


def test_a_file_is_recorded_by_path_and_identified_by_content(site, clip, tmp_path, monkeypatch):
    from erc_toolkit.train.inference.packaging import _file_options

    monkeypatch.chdir(tmp_path)
    Path("w.txt").write_text("2.5")
    options = {"extractor_options": {"FromFile.weights": "w.txt", "FromFile.batch": "3"}}
    assert (values_of_run(tmp_path / "s.h5", clip, "FromFile", **options)["audio/from-file"][0] == 2.5).all()
    with FeatureStore.open(tmp_path / "s.h5") as store:
        attrs = store.feature("audio/from-file").attrs
        recorded = unpacked(attrs["options"])
        assert recorded["FromFile.weights"] == str(tmp_path / "w.txt") and "FromFile.batch" not in recorded
        assert "options" not in unpacked(attrs["parameters"])
    # `package` copies the file, and finds the copy again.
    assert "FromFile.weights" in _file_options(recorded)
    assert "FromFile.weights" in _file_options({"FromFile.weights": "encoders/FromFile.weights/w.txt"})
    assert "FromFile.weights" not in _file_options({"FromFile.weights": "encoders/../w.txt"})
    assert recorded_options("audio", recorded).extractor_options == {"FromFile.weights": str(tmp_path / "w.txt")}


@pytest.mark.parametrize(
    "name, member",
    [
        ("NoExtract", "extract()"),
        ("NoModality", "modality"),
        ("NoName", "name is missing"),
        ("NoDim", "dim is missing"),
        ("ZeroDim", "dim"),
        ("WrongWants", "wants"),
        ("NoWants", "wants"),
        ("WorkerRate", "in_workers"),
        ("WrongDetails", "details"),
        ("TextDetails", "details"),
        ("WrongNames", "dimension_names"),
        ("WrongFrameWidth", "frame_width"),
        ("WrongLayers", "layer_count"),
        ("NoModel", "provenance()"),
        ("NoJson", "provenance()"),
        ("Raises", "no licence"),
        ("PlainOptions", "Options"),
        ("ListOptions", "sizes"),
        ("function", "Extractor"),
        ("gone", "gone"),
        ("absent", "my_package_2"),
    ],
)
def test_a_broken_contract_is_named_before_the_work_starts(site, clip, tmp_path, name, member):
    with pytest.raises(UserError) as error:
        values_of_run(tmp_path / "s.h5", clip, name)
    message = error.value.message
    assert member in message and repr(name) in message and "my_package 1.2" in message and "\n" not in message
    assert not parts_root(tmp_path / "s.h5").exists()


@pytest.mark.parametrize(
    "name, fact",
    [
        ("TooFew", "0 results"),
        ("WrongShape", "(5,)"),
        ("NoReason", "reason"),
        ("OddDetail", "'mood'"),
        ("Arrays", "ndarray"),
    ],
)
def test_wrong_results_are_one_line(site, clip, tmp_path, name, fact):
    with pytest.raises(UserError) as error:
        values_of_run(tmp_path / "s.h5", clip, name)
    assert "extract()" in error.value.message and fact in error.value.message and repr(name) in error.value.message
    assert "\n" not in error.value.message and not (tmp_path / "s.h5").exists()


def test_sequences_of_an_extractor_without_them(site, clip, tmp_path):
    with pytest.raises(UserError, match="--sequences.*'Simple'.*package my_package 1.2"):
        values_of_run(tmp_path / "s.h5", clip, "Simple", sequences=True)
    assert not parts_root(tmp_path / "s.h5").exists()
    with pytest.raises(UserError, match=r"'NoFrames'.*extract\(\).*frames"):
        values_of_run(tmp_path / "s.h5", clip, "NoFrames", sequences=True)


@pytest.mark.parametrize(
    "options, fact",
    [
        ({"extractors": ("melt",)}, "'melt'"),
        ({"extractors": ("opensmile",)}, "--audio-set"),
        ({"extractors": ("Words",)}, "--modalities"),
        ({"extractors": ("Simple", "loudness")}, "--extractor loudness"),
        ({"extractors": ("loudness",), "extractor_options": {"loudness.size": 1}}, "window, scale"),
        ({"extractors": ("loudness",), "extractor_options": {"loudness.window": "x"}}, "window"),
        ({"extractors": ("loudness",), "extractor_options": {"loudness.window": 2}}, "from 0.01 to 1"),
        ({"extractors": ("loudness",), "extractor_options": {"Simple.window": 1}}, "Simple.window"),
        ({"extractor_options": {"loudness.window": 1}}, "loudness.window"),
        ({"extractors": ("Scene",), "modalities": ("visual",), "save_crops": Path("crops")}, "--save-crops"),
    ],
)
def test_mistakes_in_the_options(site, clip, tmp_path, monkeypatch, options, fact):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    with pytest.raises(UserError, match=re.escape(fact)) as error:
        extract(corpus(clip), tmp_path / "s.h5", Options(**{"modalities": ("audio",), **options}), notify=print)
    assert "\n" not in error.value.message and set(tmp_path.iterdir()) == before


def test_options_that_would_be_ignored_are_refused(site, clip, tmp_path):
    write_manifest(corpus(clip), clip.parent / "m.jsonl")
    command = ["extract", "manifest", clip.parent / "m.jsonl", "--out", tmp_path / "s.h5", "--extractor", "loudness"]
    assert "--audio-set" in run(*command, "--audio-set", "IS10", code=2)
    assert "NAME.KEY=VALUE" in run(*command, "--extractor-option", "window=1", code=2)
    assert "NAME.KEY=VALUE" in run(*command, "--extractor-option", "loudness.window", code=2)


@pytest.mark.parametrize(
    "options",
    [
        {"modalities": ("smell",)},
        {"modalities": ()},
        {"pooling": "max"},
        {"text_context": 101},
        {"text_context": 1.5},
        {"fps": float("nan")},
        {"fps": "5"},
        {"most_frames": True},
        {"audio_set": "IS14"},
        {"precision": None},
        {"extractors": "loudness"},
    ],
)
def test_options_of_the_library_are_checked(options):
    name = next(iter(options)).replace("_", "-")
    with pytest.raises(UserError, match=f"^--{name}: "):
        Options(**options)
    with pytest.raises(TypeError):
        Options(no_such=1)


def test_the_registry(site):
    assert list(extractors())[: len(EXTRACTORS)] == list(EXTRACTORS) and "my_package.loudness" not in sys.modules
    for name in EXTRACTORS:  # ours are not replaced
        assert find_extractor(name).built_in and find_extractor(name).cls.__module__.startswith("erc_toolkit.")
    chosen = {m: built_in_extractor(Options(), m) for m in ("text", "audio", "visual")}
    assert all(find_extractor(name).cls.modality == modality for modality, name in chosen.items())
    other = site / "other-3.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 3\n")
    (other / "entry_points.txt").write_text(f"[{ENTRY[1]}]\nloudness = my_package.loudness:Loudness\n")
    with pytest.raises(UserError, match="'loudness'.*package my_package 1.2 and package other 3"):
        find_extractor("loudness")
