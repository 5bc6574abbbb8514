"""Synthetic stores and batches for the tests of `train`, and a check of the synthetic store."""

import numpy as np
import torch

from erc_toolkit.toolkit.base.errors import UserError
from erc_toolkit.toolkit.base.processes import Failure
from erc_toolkit.toolkit.manifest import Utterance
from erc_toolkit.toolkit.store import FeatureStore, StoreWriter
from erc_toolkit.train.data.batch import Batch
from erc_toolkit.train.models.subgraphs.amb_dsgdn import AMBDSGDN, Settings

DIMS = {"text": 12, "audio": 10, "visual": 8}
LABELS = ["anger", "joy", "neutral"]
SIZES = {"train": 24, "val": 6, "test": 8}
TINY = Settings(hidden=16, heads=2, window=3, dropout=0.1, dropout_warm_up=0)


def write_store(
    path,
    *,
    corpus="demo",
    sizes=SIZES,
    dims=DIMS,
    labels=LABELS,
    seed=0,
    noise=0.5,
    absent=0.1,
    unlabelled=0.1,
    change=lambda features: None,
    used_labels=None,
    speakers=("ann", "bob", "cy"),
    text="hi",
    attrs=None,
):
    """A store whose features reveal the class, with some absent features and some unlabelled utterances.

    `change` may modify the {modality: values} before they are written; `sizes` are dialogues per split.
    """
    rng = np.random.default_rng(seed)
    utterances, classes = [], []
    for split, dialogues in sizes.items():
        for d in range(dialogues):
            for position in range(int(rng.integers(2, 7))):
                label = int(rng.integers(used_labels or len(labels)))
                classes.append(label)
                utterances.append(
                    Utterance(
                        id=f"{split}{d}_u{position}",
                        dialogue=f"{split}{d}",
                        position=position,
                        speaker=speakers[int(rng.integers(len(speakers)))],
                        text=text,
                        label=None if rng.random() < unlabelled else labels[label],
                        split=split,
                    )
                )
    n = len(utterances)
    centres = {m: rng.normal(size=(len(labels), dim)) for m, dim in dims.items()}
    values = {
        m: (centres[m][classes] + noise * rng.normal(size=(n, dim))).astype(np.float32) for m, dim in dims.items()
    }
    change(values)
    with StoreWriter(path, corpus=corpus, labels=labels, utterances=utterances) as writer:
        for modality in dims:
            present = rng.random(n) >= absent
            reasons = ["" if p else "no_audio" for p in present]
            writer.add_feature(modality, f"{modality}_x", values[modality], present, reasons, attrs)
    return path


def random_batch(
    lengths=(5, 3, 1), dims=DIMS, classes=3, speakers=2, seed=0, dtype=torch.float64, absent=0.0, unlabelled=0.0
):
    """A batch of random dialogues in which the share `absent` of the features is missing."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(lengths)

    def random(*shape):
        return torch.rand(*shape, generator=generator, dtype=dtype)

    present = {m: random(n) >= absent for m in dims}
    features = {m: (random(n, dim) * 2 - 1) * present[m][:, None] for m, dim in dims.items()}
    labels = torch.randint(classes, (n,), generator=generator)
    labels[random(n) < unlabelled] = -1
    return Batch(features, present, torch.randint(speakers, (n,), generator=generator), labels, *packing(lengths))


def packing(lengths):
    """`dialogue` and `offsets` of a batch whose dialogues have these lengths."""
    lengths = torch.tensor(lengths)
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return torch.arange(len(lengths)).repeat_interleave(lengths), offsets


def rows(batch, dialogue):
    """The rows of one dialogue of a batch."""
    return slice(*batch.offsets[dialogue : dialogue + 2].tolist())


def cut(batch, dialogue):
    """One dialogue of a batch, as a batch."""
    part = rows(batch, dialogue)
    return Batch(
        {m: x[part] for m, x in batch.features.items()},
        {m: x[part] for m, x in batch.present.items()},
        batch.speakers[part],
        batch.labels[part],
        *packing([part.stop - part.start]),
    )


def dense(graph):
    """Relation ids of a graph with 0 for "no edge", [N, N]: Adj of equations 7 and 8."""
    matrix = torch.zeros(graph.blocks.rows, graph.blocks.rows, dtype=torch.int64)
    i, j, relation = graph.edges()
    matrix[i, j] = relation
    return matrix


def tiny_model(dims=DIMS, config=TINY, speakers=2, counts=(3, 5, 2), weights=None, seed=0):
    """A small float64 model in evaluation mode."""
    torch.manual_seed(seed)
    return AMBDSGDN(config, dims, speakers, torch.tensor(counts, dtype=torch.float64), weights).double().eval()


def one_after_the_other(function, tasks, jobs, threads, gpus=0):
    """`work_off` in this process, for tests of the tasks; `test_study.py` tests processes."""
    for number, task in enumerate(tasks):
        try:
            yield number, function(*task)
        except UserError as error:
            yield number, Failure(str(error))


def test_synthetic_store_follows_its_options(tmp_path):
    with FeatureStore.open(write_store(tmp_path / "s.h5")) as store:
        assert store.feature_names() == ["audio/audio_x", "text/text_x", "visual/visual_x"]
        assert 0 < (store.column("label") < 0).mean() < 0.3
        assert 0 < (~store.feature("audio/audio_x").present()).mean() < 0.3
        assert [int((store.column("split")[store.offsets[:-1]] == s).sum()) for s in SIZES] == list(SIZES.values())
