"""Context on MELD's real transcripts: text-only AMB-DSGDN against logistic regression on the same features.

    python benchmarks/meld_transcripts.py FOLDER [--out DIR] [--seeds 5] [--device auto] [--set key=value ...]

FOLDER contains {train,dev,test}_sent_emo.csv. The features need no network and no trained encoder: TF-IDF of words,
word pairs and pieces of words, reduced to 300 dimensions by SVD, both fitted on the training split only. The
regularisation of the regression is selected like the network's epoch: on the validation split, or on the test split
after training on the other two, as published scripts do (labelled as such). For comparison: the network with a window
of 0, which uses each utterance alone, and the regression with additional input from the surrounding utterances,
either their features or the emotions that a first regression predicts for them. SETTINGS were chosen by weighted F1
on the validation split. Runs in DIR are not repeated.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import numpy as np
import scipy.sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline, make_union

from erc_toolkit.extract.corpora.registry import read_corpus
from erc_toolkit.toolkit.manifest import Manifest
from erc_toolkit.toolkit.store import FeatureStore, StoreWriter
from erc_toolkit.train.config import load_config
from erc_toolkit.train.loop.seeds import train_seeds

DIMENSIONS = 300
WINDOW = 6
STRENGTHS = [0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10]
SETTINGS = [
    # The variance of SVD's dimensions reflects their importance; zscore would amplify the noise of the last ones.
    "data.normalise=none",
    "data.modalities=[text]",
    f"model.window={WINDOW}",
    "model.hidden=64",
    "model.heads=1",
    "model.dropout=0.3",
    "train.lr=3e-3",
    "train.weight_decay=5e-3",
    "train.batch_size=16",
    "train.schedule=cosine",
]


def write_features(manifest: Manifest, path: Path) -> None:
    """Writes a store with the feature text/tfidf-svd, centred, with standard deviation 1 over all dimensions."""
    texts = [u.text for u in manifest.utterances]
    training = np.array([u.split == "train" for u in manifest.utterances])
    words = TfidfVectorizer(token_pattern=r"\w+(?:['’]\w+)*|[^\w\s]+", ngram_range=(1, 2), min_df=2, sublinear_tf=True)
    pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), min_df=3, sublinear_tf=True)
    features = make_pipeline(make_union(words, pieces), TruncatedSVD(DIMENSIONS, random_state=0))
    values = features.fit([texts[i] for i in np.flatnonzero(training)]).transform(texts)
    values = (values - values[training].mean(0)) / values[training].std()
    recipe = {"extractor": "benchmarks/meld_transcripts.py", "fitted_on": "train"}
    with StoreWriter(path, corpus=manifest.corpus, labels=manifest.labels, utterances=manifest.utterances) as writer:
        writer.add_feature(
            "text", "tfidf-svd", values.astype(np.float32), np.ones(len(texts), bool), [""] * len(texts), recipe
        )


def regression(values: np.ndarray, store: FeatureStore, protocol: str) -> tuple[float, float, float]:
    """Strength of the best regression, and its weighted F1 on the selection split and on the test split."""
    labels, split = store.column("label"), store.column("split")
    training = split != "test" if protocol == "best-on-test" else split == "train"
    selection = "test" if protocol == "best-on-test" else "val"
    found = []
    for strength in STRENGTHS:
        predicted = (
            LogisticRegression(C=strength, max_iter=1000).fit(values[training], labels[training]).predict(values)
        )
        scores = {
            s: f1_score(labels[split == s], predicted[split == s], average="weighted") for s in (selection, "test")
        }
        found.append((scores[selection], strength, scores["test"]))
    selected, strength, test = max(found)
    return strength, 100 * selected, 100 * test


def around(values: np.ndarray, store: FeatureStore) -> np.ndarray:
    """Means over the same speaker's, and over others', utterances up to WINDOW before and after, (N, 2 D)."""
    dialogue, speaker = store.column("dialogue"), store.column("speaker")
    row, column = np.indices((len(values), 2 * WINDOW + 1)).reshape(2, -1)
    column = row + column - WINDOW
    kept = (column >= 0) & (column < len(values)) & (column != row)
    row, column = row[kept], column[kept]
    kept = dialogue[row] == dialogue[column]
    row, column = row[kept], column[kept]
    means = []
    for chosen in (speaker[row] == speaker[column], speaker[row] != speaker[column]):
        counts = np.bincount(row[chosen], minlength=len(values))
        # Not 1 / count, as a mean of many has less noise and should weigh more.
        weights = 1 / np.sqrt(counts[row[chosen]])
        means.append(scipy.sparse.csr_array((weights, (row[chosen], column[chosen])), (len(values),) * 2) @ values)
    return np.hstack(means)


def predicted_emotions(values: np.ndarray, store: FeatureStore) -> np.ndarray:
    """Log probabilities (N, C) by a regression that was not trained on the dialogue in question, standardised."""
    labels, dialogue, training = store.column("label"), store.column("dialogue"), store.column("split") == "train"
    found = np.empty((len(values), len(store.labels)))
    rows = np.flatnonzero(training)
    parts = [(rows[a], rows[b]) for a, b in GroupKFold(5).split(rows, groups=dialogue[rows])]
    for known, unknown in [*parts, (rows, np.flatnonzero(~training))]:
        model = LogisticRegression(C=0.1, max_iter=1000).fit(values[known], labels[known])
        found[unknown] = model.predict_log_proba(values[unknown])
    return (found - found[training].mean(0)) / found[training].std(0)


def line(protocol: str, name: str, selected: str, test: str) -> None:
    """Prints a row of the table."""
    print(f"{protocol:13} {name:32} {selected:>14} {test:>14}", flush=True)


def main() -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, help="folder in which to keep the store and the runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    with tempfile.TemporaryDirectory() as scratch:
        out = options.out or Path(scratch)
        out.mkdir(parents=True, exist_ok=True)
        path = out / "meld-tfidf.h5"
        if not path.exists():
            write_features(read_corpus("meld", options.folder), path)
        with FeatureStore.open(path) as store:
            values = store.feature("text/tfidf-svd").values()
            line("weighted F1", "", "selected", "test")
            for protocol in ("validation", "best-on-test"):
                inputs = {"regression": values}
                if protocol == "validation":
                    inputs["  with features around it"] = np.hstack([values, around(values, store)])
                    emotions = around(predicted_emotions(values, store), store)
                    inputs["  with emotions predicted around it"] = np.hstack([values, emotions])
                for name, given in inputs.items():
                    strength, selected, test = regression(given, store, protocol)
                    line(protocol, f"{name}, C {strength}", f"{selected:.2f}", f"{test:.2f}")
                for window, name in ((WINDOW, f"network, window {WINDOW}"), (0, "network, each utterance alone")):
                    changes = [*SETTINGS, *options.set, f"train.protocol={protocol}", f"model.window={window}"]
                    summary = train_seeds(
                        store,
                        load_config("meld", changes),
                        out / f"{protocol}-window-{window}",
                        range(options.seeds),
                        options.device,
                        lambda text: None,
                        resume=True,
                    )
                    cells = (summary[part]["weighted_f1"] for part in ("selected", "test"))
                    line(protocol, name, *(f"{100 * c['mean']:.2f} ± {100 * (c['std'] or 0):.2f}" for c in cells))


if __name__ == "__main__":
    main()
