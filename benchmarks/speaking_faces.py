"""How often the speaking face is found among two: clips of one talking head each, put side by side, with one's audio.

    python benchmarks/speaking_faces.py FOLDER --face-model yunet.onnx --lips-model pretrain_AVA.model

Every pair of the clips named below is joined by ffmpeg, with the left one's audio and with the right one's, and given
to the extraction's own worker. Printed are the choices that were right, by motion, by LR-ASD's score alone and by the
evidence; the slope of the confidence that fits the other clips' choices best, for each clip left out; and how often
choices of each confidence were right. Choices with which both faces' clips are the same person's are harder than
conversations, where one person talks while the other listens.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
from scipy.optimize import minimize_scalar

from erc_toolkit.extract.encoders.base import Crops
from erc_toolkit.extract.faces import choice
from erc_toolkit.extract.faces.choice import Choosing
from erc_toolkit.extract.faces.lips.speech import SLOPE
from erc_toolkit.extract.run.media.requests import MediaRequest, Span, Task
from erc_toolkit.extract.run.media.worker import process, set_up

# Clips of MELD's folder in ../shared that show one face throughout: one woman near, and one man on a stage.
NEAR = "dia33_utt1 dia3_utt2 dia0_utt0 dia6_utt1 dia13_utt2 dia22_utt0 dia22_utt2 dia27_utt0".split()
STAGE = "dia13_utt1 dia22_utt3 dia33_utt0 dia7_utt1".split()


def side_by_side(left: list[Path], right: list[Path], voice: int, seconds: float, out: Path) -> None:
    """Writes a video of two people, each from clips one after another, with the audio of one."""
    shown, heard = [], None
    for who, clips in enumerate((left, right)):
        streams = []
        for source in [ffmpeg.input(str(path)) for path in clips]:
            streams.append(source.video.filter("scale", 640, 360).filter("fps", 24))
            streams += [source.audio] if who == voice else []
        # Together, since audio and video of a clip differ in length; an unused stream would be written as well.
        joined = ffmpeg.concat(*streams, v=1, a=int(who == voice)).node
        shown.append(joined[0])
        heard = joined[1] if who == voice else heard
    both = ffmpeg.filter(shown, "hstack")
    job = ffmpeg.output(both, heard, str(out), t=seconds, vcodec="libx264", crf=20, acodec="aac", loglevel="error")
    job.run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), overwrite_output=True)


def chosen(path: Path, choosing: Choosing, face_model: Path) -> tuple[choice.Chosen, list, list]:
    """The choice that the extraction makes for a file, the speeches of its faces, and their sides (0 left, 1 right)."""
    seen: dict = {}
    inner = Choosing.choose

    def spy(self, tracks, samples, rate, speeches=()):
        seen["chosen"] = inner(self, tracks, samples, rate, speeches)
        seen["speeches"], seen["tracks"] = list(speeches), choice._scored(tracks)
        return seen["chosen"]

    Choosing.choose = spy
    try:
        request = MediaRequest(
            {"visual": Crops(64, grey=True)}, "yunet", face_model, 5, 0.1, 100, 600, choosing=choosing
        )
        process((0, Task(path, [Span(0, None, None, None, ["visual"])]), request))
    finally:
        Choosing.choose = inner
    return seen["chosen"], seen["speeches"], [side(track) for track in seen["tracks"]]


def side(track) -> int:
    return int(np.mean([box[0] + box[2] / 2 for _, box in track.boxes]) > 0.5)


def measure(pairs: list[tuple[list[Path], list[Path]]], seconds: float, args: argparse.Namespace) -> list[dict]:
    """One row for each pair and voice."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for left, right in pairs:
            for voice in (0, 1):
                out = Path(folder) / "pair.mp4"
                side_by_side(left, right, voice, seconds, out)
                by_lips, speeches, sides = chosen(out, Choosing(args.lips_model, "keep"), args.face_model)
                by_motion, _, _ = chosen(out, Choosing(None), args.face_model)
                own = [s for s, at in zip(speeches, sides, strict=True) if at == voice]
                other = [s for s, at in zip(speeches, sides, strict=True) if at != voice]
                if by_lips.track is None or by_motion.track is None or not own or not other:
                    print(f"{left[0].stem} {right[0].stem}: a face was not found", flush=True)
                    continue
                best_own, best_other = (max(group, key=lambda s: s.evidence) for group in (own, other))
                rows.append(
                    {
                        "clips": {path.stem for path in left + right},
                        "margin": best_own.evidence - best_other.evidence,
                        "lips": side(by_lips.track) == voice,
                        "score": max(s.score for s in own) > max(s.score for s in other),
                        "motion": side(by_motion.track) == voice,
                        "confidence": by_lips.confidence,
                    }
                )
    return rows


def slope_of(margins: np.ndarray) -> float:
    """The slope k with the greatest likelihood of sigmoid(k margin) being the probability of the right choice."""
    fitted = minimize_scalar(lambda k: np.logaddexp(0, -k * margins).mean(), bounds=(0.01, 20), method="bounded")
    return float(fitted.x)


def report(name: str, rows: list[dict]) -> None:
    n = len(rows)
    counts = ", ".join(f"{what} {sum(row[what] for row in rows)} of {n}" for what in ("motion", "score", "lips"))
    print(f"{name}: {counts}", flush=True)


def reliability(rows: list[dict], slope) -> None:
    """Prints how often choices of each confidence were right; `slope` is a function of the row."""
    sure = np.array([1 / (1 + np.exp(-slope(row) * abs(row["margin"]))) for row in rows])
    right = np.array([row["margin"] > 0 for row in rows])
    for low, high in ((0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.01)):
        there = (sure >= low) & (sure < high)
        if there.any():
            counts = f"right {right[there].sum()} of {there.sum()}"
            print(f"  {low:.1f}-{min(high, 1):.1f}: mean {sure[there].mean():.2f}, {counts}")
    print(f"  mean confidence {sure.mean():.3f}, right {right.mean():.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--face-model", type=Path, required=True)
    parser.add_argument("--lips-model", type=Path, required=True)
    args = parser.parse_args()
    set_up()
    clips = {path.stem: path for path in args.folder.glob("*/*.mp4") if not path.name.startswith("._")}
    near, stage = [clips[name] for name in NEAR], [clips[name] for name in STAGE]
    same = [([a], [b]) for a, b in itertools.combinations(near, 2)]
    every = []
    for seconds in (1.0, 2.4):
        rows = measure(same, seconds, args)
        every += rows
        report(f"two near faces, {seconds:g} s", rows)
    double = [
        ([a, b], [c, d])
        for (a, b), (c, d) in itertools.combinations(itertools.pairwise(near), 2)
        if {a, b}.isdisjoint({c, d})
    ]
    rows = measure(double, 4.8, args)
    every += rows
    report("two near faces, 4.8 s", rows)
    crossed = measure([([a], [b]) for a in near for b in stage], 2.4, args)
    report("one near, one on a stage, 2.4 s", crossed)
    print(f"slope of all choices between near faces: {slope_of(np.array([row['margin'] for row in every])):.2f}")

    def left_out(row: dict) -> float:
        return slope_of(np.array([r["margin"] for r in every if r["clips"].isdisjoint(row["clips"])]))

    print("confidence, with the slope of the choices that share no clip:")
    reliability(every, left_out)
    print(f"confidence, with the slope in use, {SLOPE:g}; between near faces, then with the stage:")
    reliability(every, lambda row: SLOPE)
    reliability(crossed, lambda row: SLOPE)


if __name__ == "__main__":
    main()
