"""A store as Parquet: one file, or a folder for `datasets.load_dataset` and the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..base.errors import UserError
from ..base.files import atomic_path
from ..base.outputs import staged_folder, stamped
from ..store import FeatureStore
from .marks import HUB_CARD, HUB_FILE, HUB_FILES, HUB_SPLITS, TABLE_KEY


def table_of(store: FeatureStore, features: Sequence[str], rows: np.ndarray | None = None):
    """A pyarrow table with one row per utterance.

    Columns: id, dialogue, position, speaker, text, label (its name, null for none), label_index (-1 for none), split,
    start_s, end_s; and for each feature "modality/name", a list of float32 that is null where it is not present, and
    "modality/name:reason". The table's metadata has the corpus, labels and each feature's provenance.

    Args:
        store: open.
        features: names of the features to write.
        rows: indices of the rows to write; None means all.

    Raises:
        UserError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise UserError("Parquet needs pyarrow; install it with: pip install 'erc-toolkit[parquet]'") from None
    import json

    rows = np.arange(len(store)) if rows is None else rows
    label = store.column("label")[rows]
    columns = {
        "id": pa.array(store.column("id")[rows], pa.string()),
        "dialogue": pa.array([store.dialogue_ids[d] for d in store.column("dialogue")[rows]], pa.string()),
        "position": pa.array(store.column("position")[rows], pa.int32()),
        "speaker": pa.array([store.speaker_names[s] for s in store.column("speaker")[rows]], pa.string()),
        "text": pa.array(store.column("text")[rows], pa.string()),
        "label": pa.array([store.labels[i] if i >= 0 else None for i in label], pa.string()),
        "label_index": pa.array(label, pa.int32()),
        "split": pa.array(store.column("split")[rows], pa.string()),
        **{name: pa.array(store.column(name)[rows], pa.float64(), from_pandas=True) for name in ("start_s", "end_s")},
    }
    for name in features:
        feature = store.feature(name)
        present = feature.present()[rows]
        values = np.ascontiguousarray(feature.values()[rows])
        flat = pa.array(values.reshape(-1), pa.float32())
        columns[name] = pa.FixedSizeListArray.from_arrays(flat, feature.dim, mask=pa.array(~present))
        columns[f"{name}:reason"] = pa.array(feature.reasons()[rows], pa.string())
    about = {
        "corpus": store.corpus,
        "labels": store.labels,
        "content_sha256": store.content_hash,
        "features": {name: store.feature(name).attrs for name in features},
    }
    return pa.table(columns).replace_schema_metadata({TABLE_KEY: json.dumps(about, ensure_ascii=False)})


def write_parquet(table: object, path: Path) -> None:
    """Writes a table as one Parquet file, zstd-compressed.

    Raises:
        OSError: the file cannot be written.
    """
    import pyarrow.parquet as pq

    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def write_hub_folder(store: FeatureStore, features: Sequence[str], folder: Path, card: str) -> None:
    """Writes `data/SPLIT-00000-of-00001.parquet` for each split and `README.md`, the dataset card.

    Other files in the folder are kept.

    Raises:
        OSError: the folder cannot be written.
    """
    split = store.column("split")
    with staged_folder(folder, HUB_FILES) as work:
        (work / "data").mkdir()
        for ours, hub in HUB_SPLITS.items():
            if (rows := np.flatnonzero(split == ours)).size:
                write_parquet(table_of(store, features, rows), work / HUB_FILE.format(hub))
        (work / HUB_CARD).write_text(stamped(card, "export"), encoding="utf-8")
