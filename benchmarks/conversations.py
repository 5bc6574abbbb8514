"""The whole chain on conversations whose turns are known: who speaks when, and which face it is.

    pip install pyannote.metrics
    python benchmarks/conversations.py MELD_FOLDER --asr-model base --speaker-model NAME --face-model yunet.onnx
        --lips-model pretrain_AVA.model

Clips of two people are put together as a split screen: one person talks, the other one's half is still, as a listener's
is nearly; then the other way round. Printed for each conversation: people found, the diarisation error rate of
pyannote.metrics with its parts, turns whose face is the speaker's own, and seconds of work per second of recording.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.diarization import DiarizationErrorRate
from speaking_faces import NEAR

from erc_toolkit.extract.diarization.loading import Loader, Options
from erc_toolkit.extract.diarization.transcribe import transcribe
from erc_toolkit.extract.run.media.recording_faces import face_finder
from erc_toolkit.toolkit.media import media_duration

STAGE = "dia13_utt1 dia13_utt3 dia22_utt3 dia33_utt0".split()
GAP_S = 0.3
RATE = 24  # pictures per second
Known = list[tuple[float, float, int]]


def conversation(people: tuple[list[Path], list[Path]], seed: int, out: Path) -> Known:
    """Writes a conversation of two people, in turns; returns (start, end, side) of each turn."""
    rng = np.random.default_rng(seed)
    orders = [list(rng.permutation(len(clips))) for clips in people]
    streams, known, at = [], [], 0.0
    for turn in range(2 * min(map(len, people))):
        side = turn % 2
        own, other = (people[i][orders[i][turn // 2]] for i in (side, 1 - side))
        # Each input has options of its own: ffmpeg-python makes one of equal ones, which would need splitting.
        speaker, listener = ffmpeg.input(str(own)), ffmpeg.input(str(other), t=1 + turn / 100)
        lasts = media_duration(own) or 0.0
        halves = [
            speaker.video.filter("scale", 640, 360).filter("setsar", 1).filter("fps", RATE),
            listener.video.filter("scale", 640, 360)
            .filter("setsar", 1)
            .filter("fps", RATE)
            .filter("select", "eq(n,0)")
            .filter("loop", -1, 1, 0)
            .filter("setpts", f"N/{RATE}/TB"),
        ]
        both = ffmpeg.filter(halves if side == 0 else halves[::-1], "hstack", shortest=1)
        # Whole frames, of which sound and pictures are cut to the same length: else each turn is later than it seems.
        length = math.ceil((lasts + GAP_S) * RATE) / RATE
        padded = both.filter("tpad", stop=-1, stop_mode="clone").filter("trim", duration=length)
        sound = speaker.audio.filter("aresample", 16_000, first_pts=0).filter("apad").filter("atrim", duration=length)
        streams += [padded.filter("setpts", "PTS-STARTPTS"), sound]
        known.append((at, at + lasts, side))
        at += length
    joined = ffmpeg.concat(*streams, v=1, a=1).node
    job = ffmpeg.output(joined[0], joined[1], str(out), vcodec="libx264", crf=20, acodec="aac", loglevel="error")
    job.run(cmd=imageio_ffmpeg.get_ffmpeg_exe(), overwrite_output=True)
    return known


def annotation(turns: list[tuple[float, float, str]]) -> Annotation:
    found = Annotation()
    for i, (start, end, who) in enumerate(turns):
        found[Segment(start, end), i] = who
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--asr-model", default="base")
    parser.add_argument("--speaker-model", default=Options.speaker_model)
    parser.add_argument("--face-model", type=Path)
    parser.add_argument("--lips-model", type=Path)
    parser.add_argument("--conversations", type=int, default=4)
    args = parser.parse_args()
    clips = {path.stem: path for path in args.folder.glob("*/*.mp4") if not path.name.startswith("._")}
    people = tuple([clips[name] for name in names] for names in (NEAR, STAGE))
    options = Options(language="en", asr_model=args.asr_model, speaker_model=args.speaker_model)
    loader = Loader(options)
    loader.models()
    right = total = 0
    rates, speeds = [], []
    for seed in range(args.conversations):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "talk.mp4"
            known = conversation(people, seed, path)
            finder, _ = face_finder("yes", "yunet", args.face_model, args.lips_model)
            assert finder is not None
            began = time.perf_counter()
            result = transcribe(
                path, Path(folder) / "t.json", options, faces=finder, loader=loader, notify=lambda _: None
            )
            document = result.document
            took = (time.perf_counter() - began) / document.media["duration"]
            tracks, _ = finder._tracked(path)
        whole = Timeline([Segment(0, document.media["duration"])])
        found = [(turn.start, turn.end, str(turn.speaker)) for turn in document.turns]
        both = annotation([(a, b, str(s)) for a, b, s in known]), annotation(found)
        parts = DiarizationErrorRate()(*both, uem=whole, detailed=True)
        collared = DiarizationErrorRate(collar=0.5)(*both, uem=whole)  # a quarter of a second on either side
        sides, unlinked = [], 0
        for turn in document.turns:
            shared = [0.0, 0.0]
            for start, end, side in known:
                shared[side] += max(0.0, min(end, turn.end) - max(start, turn.start))
            if turn.face is None:
                unlinked += 1
                continue
            box = np.mean([b[0] + b[2] / 2 for time, b in tracks[turn.face].boxes if turn.start <= time <= turn.end])
            sides.append(int(box > 0.5) == int(np.argmax(shared)))
        right, total = right + sum(sides), total + len(document.turns)
        rates.append((parts["diarization error rate"], collared))
        speeds.append(took)
        shares = [parts[name] / parts["total"] for name in ("missed detection", "false alarm", "confusion")]
        print(
            f"{seed}: {len({who for *_, who in found})} people, error {rates[-1][0]:.3f} (missed {shares[0]:.3f}, "
            f"false {shares[1]:.3f}, person {shares[2]:.3f}), with a collar of 0.25 s {collared:.3f}, right face "
            f"{sum(sides)} of {len(document.turns)} turns ({unlinked} without a face), {took:.2f} s per second",
            flush=True,
        )
    plain, collared = np.mean(rates, 0)
    means = f"mean error {plain:.3f}, with a collar {collared:.3f}, {np.mean(speeds):.2f} s per second of recording"
    print(f"{means}, right face {right} of {total} turns")


if __name__ == "__main__":
    main()
