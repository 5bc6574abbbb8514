"""A synthetic store of a speech encoder's layers, of which one tells the class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from test_train_support import write_store

LAYERS, WIDTH, TELLS = 6, 4, 3  # the layer that tells the class
MADE = {
    "extractor": "speech",
    "model": "wavlm",
    "parameters": {"layers": "each", "layer_count": LAYERS, "layer_dim": WIDTH},
    "options": {"audio_model": "wavlm", "layers": "each"},
}


def only_one_layer_tells(values) -> None:
    rng = np.random.default_rng(5)
    layers = values["audio"].reshape(-1, LAYERS, WIDTH)
    layers[:, np.arange(LAYERS) != TELLS] = rng.normal(size=(len(layers), LAYERS - 1, WIDTH))


def layered_store(path: Path) -> Path:
    """A store with the feature audio/audio_x, LAYERS * WIDTH columns."""
    sizes, dims = {"train": 48, "val": 8, "test": 24}, {"audio": LAYERS * WIDTH}
    return write_store(path, dims=dims, attrs=MADE, change=only_one_layer_tells, noise=0.7, sizes=sizes)
