"""How well `transcribe` finds turns that are known: dialogues in IEMOCAP's layout, by the times of its transcriptions.

    pip install jiwer
    python benchmarks/turns.py IEMOCAP_ROOT --asr-model base --speaker-model microsoft/wavlm-base-plus-sv --dialogues 5

For each dialogue: people found, the diarisation error rate over all time (no collar) with its parts missed voice, false
voice and wrong person, the word error rate of jiwer, and seconds of work per second. Turns of `transcribe` contain
pauses of up to a second, which count as false voice where the annotators cut them out.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jiwer
import numpy as np
from scipy.optimize import linear_sum_assignment

from erc_toolkit.extract.diarization.loading import Loader, Options
from erc_toolkit.extract.diarization.transcribe import transcribe

STEP_S = 0.01
_LINE = re.compile(r"^\S+_([FM])\w*\d+ \[([\d.]+)-([\d.]+)\]:(.*)", re.MULTILINE)
_SOUND = re.compile(r"\[[^]]*\]")
Turns = Sequence[tuple[float, float, str]]


def errors(known: Turns, found: Turns) -> dict[str, float]:
    """Seconds of missed voice, false voice and wrong person, each divided by the seconds of known voice.

    People are paired so that most time agrees.

    Args:
        known, found: (start, end, person) of each turn, in seconds.
    """
    count = round(max(end for _, end, _ in (*known, *found)) / STEP_S) + 1
    one, two = (_grid(turns, count) for turns in (known, found))
    agree = (one[:, None] & two[None]).sum(2)
    rows, columns = linear_sum_assignment(-agree)
    there, said = one.sum(0), two.sum(0)
    total = max(1, int(there.sum()))
    parts = {
        "missed": int(np.maximum(there - said, 0).sum()),
        "false": int(np.maximum(said - there, 0).sum()),
        "wrong": int(np.minimum(there, said).sum() - agree[rows, columns].sum()),
    }
    return {"der": sum(parts.values()) / total, **{name: value / total for name, value in parts.items()}}


def _grid(turns: Turns, count: int) -> np.ndarray:
    names = sorted({name for _, _, name in turns})
    grid = np.zeros((max(1, len(names)), count), bool)
    for start, end, name in turns:
        grid[names.index(name), round(start / STEP_S) : round(end / STEP_S)] = True
    return grid


def words(text: str) -> str:
    """What is compared: words in small letters, without punctuation and sounds in brackets."""
    text = _SOUND.sub(" ", text).lower().replace("-", " ")
    return " ".join("".join(c for c in text if c.isalnum() or c in " '").split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--asr-model", default="base")
    parser.add_argument("--speaker-model", default=Options.speaker_model)
    parser.add_argument("--speakers", type=int)
    parser.add_argument("--dialogues", type=int, default=5)
    parser.add_argument("--said", type=Path, help="lines of DIALOGUE, a tab, and its words; else the transcriptions'")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    options = Options(given.speakers, "en", given.asr_model, given.speaker_model, device=given.device)
    loader = Loader(options)
    loader.models()
    lines = given.said.read_text(encoding="utf-8").splitlines() if given.said else []
    said = dict(line.split("\t") for line in lines)
    rows, references, heard = [], [], []
    print(f"{'dialogue':24} people    der  missed   false   wrong   words  s/s")
    for wave in sorted(given.root.glob("Session*/dialog/wav/*.wav"))[: given.dialogues]:
        text = (wave.parents[1] / "transcriptions" / f"{wave.stem}.txt").read_text(encoding="utf-8", errors="replace")
        known = [(float(m[2]), float(m[3]), m[1]) for m in _LINE.finditer(text)]
        if not known:
            continue
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            document = transcribe(wave, Path(folder) / "t.json", options, loader=loader, notify=lambda _: None).document
            took = (time.perf_counter() - began) / document.media["duration"]
        found = [(turn.start, turn.end, turn.speaker) for turn in document.turns]
        row = errors(known, found)
        rows.append((row["der"], took))
        references.append(words(said.get(wave.stem) or " ".join(m[4] for m in _LINE.finditer(text))))
        heard.append(words(" ".join(turn.text for turn in document.turns)))
        row["words"] = jiwer.wer(references[-1], heard[-1])
        shown = "".join(f"{100 * row[name]:7.1f} %"[:8] for name in ("der", "missed", "false", "wrong", "words"))
        print(f"{wave.stem:24} {len({name for *_, name in found}):6} {shown} {took:5.2f}", flush=True)
    if rows:
        print(f"mean of {len(rows)}: diarisation error {100 * np.mean([r[0] for r in rows]):.1f} %, ", end="")
        print(f"{np.mean([r[1] for r in rows]):.2f} s per second of recording")
        total = jiwer.process_words(references, heard)
        counts = f"{total.substitutions} other, {total.deletions} missed, {total.insertions} too many"
        print(f"word error rate {100 * total.wer:.1f} % ({counts}, of {sum(len(r.split()) for r in references)})")


if __name__ == "__main__":
    main()
