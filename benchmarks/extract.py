"""Extraction against its own stages and against the field's usual recipe, on the same clips in one run.

    python benchmarks/extract.py [--corpus MELD_FOLDER] [--clips 60] [--text-shape large] [--precision float32 bfloat16]
        [--against 'COMMAND' ['COMMAND' …] [--rounds 3]] [-- MORE OPTIONS OF extract]

Prints three tables: each stage alone at its best on the same cores; `extract` for each modality and for all; the usual
recipe (one clip after another: ffmpeg to a WAV file, opensmile on the file, ffmpeg to JPG files, one image and one
sentence at a time through the network in float32). Networks have the real shapes and random weights. Times exclude the
loading of models, which is reported separately.

With --against it runs other tools' commands on the same clips instead, in turns with `extract` of all three, each as a
whole process with the loading of its models. In a command, {clips} is a folder with the clips in MMSA's layout
(label.csv, Raw/VIDEO/CLIP.mp4), {text_model} is the folder of the text model, and {out} a file to write. Commands are
not run by a shell; after "--" there may be more options for our own, such as --smallest-face 0.2.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import platform
import re
import resource
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import torch
from random_encoders import text_model

from erc_toolkit.extract.corpora.registry import read_corpus
from erc_toolkit.extract.encoders.audio.opensmile_sets import functionals
from erc_toolkit.extract.encoders.text.encoder import TextEncoder
from erc_toolkit.extract.encoders.visual.face_network import ARCHITECTURES, FaceEncoder, ImageInput
from erc_toolkit.extract.faces.detection import crop, face_model, make_detector
from erc_toolkit.extract.run.media.worker import set_up
from erc_toolkit.toolkit.base.cores import core_count
from erc_toolkit.toolkit.manifest import Manifest, write_manifest
from erc_toolkit.toolkit.media import SAMPLE_RATE, MediaReader, ffmpeg_binary

SET, FPS = "ComParE_2016", 5.0


def clips_of(folder: Path | None, count: int, scratch: Path) -> Manifest:
    """A manifest of `count` decodable clips from a MELD folder (repeated if it has fewer) or from the demo."""
    if folder is None:
        from erc_toolkit.toolkit.demo.corpus import make_corpus

        folder = scratch / "raw"
        make_corpus(folder, seed=1, train=max(2, count // 9), dev=1, test=1)
    manifest = read_corpus("meld", folder)
    good = []
    for u in manifest.utterances:
        try:
            with MediaReader(manifest.path(u.media), fps=FPS) as media:
                media.finish()
            if media.samples is not None and media.has_video:
                good.append(u)
        except Exception:
            continue
    from dataclasses import replace

    utterances = [
        replace(good[i % len(good)], id=f"u{i}", dialogue=f"d{i // 10}", position=i % 10, split="train")
        for i in range(count)
    ]
    return Manifest("benchmark", manifest.labels, manifest.root, utterances)


def timed(work) -> tuple[float, object]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def _decode(path: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    with MediaReader(path, fps=FPS) as media:
        frames = [frame for _, frame in media.frames()]
        media.finish()
    return media.samples, frames


def _decode_only(path: Path) -> int:
    return len(_decode(path)[1])


def _decode_audio_only(path: Path) -> int:
    with MediaReader(path) as media:
        media.finish()
    return len(media.samples)


def _functionals(samples: np.ndarray) -> np.ndarray:
    return functionals(SET)(samples)[0]


_DETECTOR = None


def _faces(job: tuple[str, Path, ImageInput, list[np.ndarray]]) -> list[np.ndarray]:
    global _DETECTOR
    kind, model, expected, frames = job
    if _DETECTOR is None:
        _DETECTOR = make_detector(kind, model)
    found = [(frame, max(faces, key=lambda f: f.area)) for frame in frames if (faces := _DETECTOR(frame))]
    crops = [crop(frame, face, expected.side, 0.1) for frame, face in found]
    return [cv2.cvtColor(cut, cv2.COLOR_RGB2GRAY) for cut in crops] if expected.grey else crops


def stages_alone(
    manifest: Manifest, detector: tuple[str, Path], text: TextEncoder, face: FaceEncoder
) -> dict[str, float]:
    """Seconds of each stage on its own, with all cores."""
    paths = [manifest.path(u.media) for u in manifest.utterances]
    # Not forked from this process: torch's threads do not survive that.
    with ProcessPoolExecutor(core_count(), multiprocessing.get_context("forkserver"), initializer=set_up) as pool:
        list(pool.map(_decode_only, paths[: core_count()]))
        decode, _ = timed(lambda: list(pool.map(_decode_only, paths)))
        audio, _ = timed(lambda: list(pool.map(_decode_audio_only, paths)))
        media = list(pool.map(_decode, paths))
        list(pool.map(_functionals, [samples for samples, _ in media[: core_count()]]))
        smile, _ = timed(lambda: list(pool.map(_functionals, [samples for samples, _ in media])))
        list(pool.map(_faces, [(*detector, face.expected, media[0][1])] * core_count()))
        detect, crops = timed(
            lambda: list(pool.map(_faces, [(*detector, face.expected, pictures) for _, pictures in media]))
        )
    crops = [np.stack(c) for c in crops if c]
    texts = [u.text for u in manifest.utterances]
    text(texts[:4])
    list(face.utterances(crops[:2]))
    return {
        "decoding audio": audio,
        "decoding both": decode,
        "openSMILE": smile,
        "face detection and crops": detect,
        "face network": timed(lambda: list(face.utterances(crops)))[0],
        "text network": timed(lambda: text(texts))[0],
    }


@torch.inference_mode()
def usual_recipe(
    manifest: Manifest, detector: tuple[str, Path], model: Path, visual: str, device: torch.device, scratch: Path
) -> dict[str, float]:
    """Seconds of each modality with the usual scripts: clip by clip, file by file, one input at a time, in float32."""
    import opensmile
    from transformers import AutoModel, AutoTokenizer

    smile = opensmile.Smile(opensmile.FeatureSet[SET], opensmile.FeatureLevel.Functionals)
    detect = make_detector(*detector)
    tokenizer, text = AutoTokenizer.from_pretrained(model), AutoModel.from_pretrained(model).eval().to(device)
    face, expected = ARCHITECTURES[visual].build().eval().to(device), ARCHITECTURES[visual].input
    normalisation = expected.normalisation
    mean, std = (
        torch.tensor(numbers, device=device).view(1, -1, 1, 1) for numbers in (normalisation.mean, normalisation.std)
    )
    spent = {"text": 0.0, "audio": 0.0, "visual": 0.0}
    quiet = ["-nostdin", "-loglevel", "error", "-y"]
    for i, u in enumerate(manifest.utterances):
        source = str(manifest.path(u.media))

        def audio(i: int = i, source: str = source) -> None:
            wav = scratch / f"{i}.wav"
            subprocess.run(
                [ffmpeg_binary(), *quiet, "-i", source, "-ac", "1", "-ar", str(SAMPLE_RATE), str(wav)], check=True
            )
            smile.process_file(str(wav))

        def visual(i: int = i, source: str = source) -> None:
            folder = scratch / f"frames{i}"
            folder.mkdir()
            subprocess.run(
                [ffmpeg_binary(), *quiet, "-i", source, "-r", str(FPS), "-q:v", "2", f"{folder}/%05d.jpg"], check=True
            )
            vectors = []
            for path in sorted(folder.iterdir()):
                frame = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
                if faces := detect(frame):
                    cut = crop(frame, max(faces, key=lambda f: f.area), expected.side, 0.1)
                    cut = cv2.cvtColor(cut, cv2.COLOR_RGB2GRAY)[..., None] if expected.grey else cut
                    x = (torch.from_numpy(cut).to(device).permute(2, 0, 1)[None].float() / 255 - mean) / std
                    vectors.append(torch.relu(face.features(x)).mean((2, 3))[0].cpu().numpy())
            if vectors:
                np.mean(vectors, 0)

        def read(transcript: str = u.text) -> None:
            text(**tokenizer(transcript, return_tensors="pt").to(device)).last_hidden_state.mean(1).cpu().numpy()

        spent["audio"] += timed(audio)[0]
        spent["visual"] += timed(visual)[0]
        spent["text"] += timed(read)[0]
    return spent


def command_of(
    manifest: Manifest, given: argparse.Namespace, precision: str, model: Path, scratch: Path, *more: str
) -> list[str]:
    """The command line of an extraction."""
    write_manifest(manifest, scratch / "m.jsonl")
    return [
        sys.executable,
        "-m",
        "erc_toolkit",
        "extract",
        "manifest",
        str(scratch / "m.jsonl"),
        "--text-model",
        str(model),
        "--audio-set",
        SET,
        "--visual-model",
        given.visual_model,
        "--visual-weights",
        "random",
        "--fps",
        str(FPS),
        "--device",
        given.device,
        "--precision",
        precision,
        *(["--face-model", str(given.face_model)] if given.face_model else ["--face-detector", "haar"]),
        *more,
    ]


def pipeline(command: list[str]) -> tuple[float, float]:
    """Seconds of an extraction without loading the models, and of loading, as reported by the command."""
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = re.search(r" in ([\d.]+) s \(load ([\d.]+) s", printed)
    return float(found[1]) - float(found[2]), float(found[2])


def first_feature(command: list[str], out: Path) -> tuple[float, float]:
    """Seconds to the first part on disk: from the start of the command, and from when its models were loaded."""
    began = time.perf_counter()
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert run.stdout is not None
    for line in run.stdout:
        if line.startswith(("text: ", "audio: ", "visual: ")):  # printed about each model when all are loaded
            break
    loaded = time.perf_counter()
    while not list(out.parent.glob(f"{out.name}.parts/*/*.npz")) and run.poll() is None:
        time.sleep(0.02)
    there = time.perf_counter()
    run.kill()
    run.wait()
    return there - began, there - loaded


def in_mmsa_layout(manifest: Manifest, folder: Path) -> Path:
    """The clips as other tools expect them: Raw/VIDEO/CLIP.mp4, and a row for each in label.csv."""
    with open(_made(folder) / "label.csv", "w", newline="", encoding="utf-8") as table:
        rows = csv.writer(table)
        modalities = ["label_T", "label_A", "label_V"]
        rows.writerow(["video_id", "clip_id", "text", "label", *modalities, "annotation", "mode"])
        for u in manifest.utterances:
            clip = _made(folder / "Raw" / u.dialogue) / f"{u.position}.mp4"
            clip.symlink_to(manifest.path(u.media).resolve())
            rows.writerow([u.dialogue, u.position, u.text, 0.0, 0.0, 0.0, 0.0, "Neutral", "train"])
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def against(given: argparse.Namespace, manifest: Manifest, model: Path, scratch: Path) -> None:
    """Seconds of whole processes, ours and others' in turns."""
    clips = in_mmsa_layout(manifest, scratch / "clips")
    out = scratch / "against"
    ours = command_of(manifest, given, given.precision[0], model, scratch, "--out", f"{out}.h5", *given.more)
    fill = {"{clips}": str(clips), "{text_model}": str(model), "{out}": str(out)}
    commands = {"erc-toolkit extract": ours}
    for line in given.against:
        words = shlex.split(line)
        for name, value in fill.items():
            words = [word.replace(name, value) for word in words]
        commands[line] = words
    spent: dict[str, list[float]] = {line: [] for line in commands}
    for _ in range(given.rounds):
        for line, words in commands.items():
            out.with_name("against.h5").unlink(missing_ok=True)
            seconds, _ = timed(lambda words=words: subprocess.run(words, check=True, stdout=subprocess.DEVNULL))
            spent[line].append(seconds)
    base = statistics.median(spent["erc-toolkit extract"])
    print(
        f"{given.rounds} whole processes of each in turns, seconds by the clock: median, least and most, median / ours"
    )
    for line, rounds in spent.items():
        middle = statistics.median(rounds)
        print(f"  {line[:60]:60} {middle:7.1f} {min(rounds):7.1f} {max(rounds):7.1f} {middle / base:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="a MELD folder; default: clips of the demo")
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--text-shape", choices=["base", "large"], default="large")
    parser.add_argument("--visual-model", choices=sorted(ARCHITECTURES), default="densenet121")
    parser.add_argument("--precision", choices=["float32", "bfloat16", "float16"], default=["float32"], nargs="+")
    parser.add_argument("--face-model", type=Path, help="YuNet's file; default: the Haar cascade")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--against", nargs="+", metavar="COMMAND", help="other tools' commands, each in one argument")
    parser.add_argument("--rounds", type=int, default=3, help="of --against")
    parser.add_argument("more", nargs="*", help="further options of extract, with --against")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(given, Path(folder))


def run(given: argparse.Namespace, scratch: Path) -> None:
    from erc_toolkit.toolkit.base.device import pick_device

    manifest = clips_of(given.corpus, given.clips, scratch)
    kind = "yunet" if given.face_model else "haar"
    detector = kind, face_model(kind, given.face_model)[0]
    model = text_model(scratch / "text", given.text_shape, [u.text for u in manifest.utterances])
    device = pick_device(given.device)
    print(
        f"{given.clips} clips, {core_count()} cores, {platform.processor() or platform.machine()}, device {device}, "
        f"torch {torch.__version__} with {torch.get_num_threads()} threads; "
        f"text of roberta-{given.text_shape}'s shape, {given.visual_model}, {SET}, {kind}, {FPS:g} frames per second"
    )
    if given.against:
        against(given, manifest, model, scratch)
        return
    usual = usual_recipe(manifest, detector, model, given.visual_model, device, scratch)
    for precision in given.precision:
        text = TextEncoder(str(model), device=device, precision=precision)
        face = FaceEncoder(given.visual_model, "random", device, precision)
        alone = stages_alone(manifest, detector, text, face)
        del text, face
        print(f"\n{precision}: each stage alone, seconds per clip")
        for name, seconds in alone.items():
            print(f"  {name:26} {seconds / given.clips:7.3f}")
        of = {
            "text": ["text network"],
            "audio": ["decoding audio", "openSMILE"],
            "visual": ["decoding both", "face detection and crops", "face network"],
        }
        print(
            f"{precision}: extract                seconds per clip   / slowest stage   / sum of stages   usual recipe"
        )
        for modalities in ("text", "audio", "visual", "text,audio,visual"):
            names = modalities.split(",")
            out = scratch / f"{precision}-{modalities}.h5"
            seconds, load = pipeline(
                command_of(manifest, given, precision, model, scratch, "--modalities", modalities, "--out", str(out))
            )
            stages = {stage for name in names for stage in of[name]}
            if "decoding both" in stages:
                stages.discard("decoding audio")
            each, baseline = [alone[stage] for stage in stages], sum(usual[name] for name in names)
            print(
                f"  {modalities:26} {seconds / given.clips:9.3f} {seconds / max(each):18.2f} x "
                f"{seconds / sum(each):17.2f} x {baseline / seconds:14.2f} times as long   (loaded in {load:.1f} s)"
            )
        out = scratch / f"{precision}-first.h5"
        waited, working = first_feature(command_of(manifest, given, precision, model, scratch, "--out", str(out)), out)
        print(f"  first features on disk {waited:.1f} s after the start, {working:.1f} s after loading")
    print(
        "\nusual recipe, seconds per clip: " + ", ".join(f"{name} {s / given.clips:.3f}" for name, s in usual.items())
    )
    own, workers = (
        resource.getrusage(who).ru_maxrss / 2**20 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(f"peak memory of this process {own:.2f} GiB, of the largest worker {workers:.2f} GiB")


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
