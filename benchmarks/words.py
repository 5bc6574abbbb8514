"""The word error rate of `transcribe` on one recording whose words are known, and that of `predict --live`'s windows.

pip install jiwer
python benchmarks/words.py AUDIO TEXT.txt --asr-model base
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import jiwer
from turns import words

from erc_toolkit.extract.diarization.recognition import FasterWhisper, joined_text, recognise
from erc_toolkit.extract.diarization.transcribe import read_samples
from erc_toolkit.extract.diarization.voice_activity import RATE, Silero, voiced_spans


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("audio", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("--asr-model", default="base")
    parser.add_argument("--language", default="en")
    args = parser.parse_args()
    reference = words(args.text.read_text(encoding="utf-8"))
    samples = read_samples(args.audio, None)
    spans = voiced_spans(Silero().probabilities(samples)[0])
    print(f"{len(samples) / RATE:.1f} s, {len(reference.split())} words, {len(spans)} spans of voice")
    for name, short, groups in (("at once", False, [spans]), ("live, span by span", True, [[span] for span in spans])):
        model = FasterWhisper(args.asr_model, language=args.language, short_windows=short)
        began = time.perf_counter()
        found = [word for group in groups for word in recognise(model, samples, group, args.language)[0]]
        took = time.perf_counter() - began
        result = jiwer.process_words(reference, words(joined_text(found)))
        counts = f"{result.substitutions} other, {result.deletions} missed, {result.insertions} too many"
        speed = f"{took / len(samples) * RATE:.2f} s per second"
        print(f"{name}: word error rate {100 * result.wer:.1f} % ({counts}), {speed}")


if __name__ == "__main__":
    main()
