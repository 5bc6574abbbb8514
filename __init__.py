"""Multimodal emotion recognition in conversations: raw corpora to features, features to trained models.

The names in `__all__` are the public API, which is stable within a major version (CONTRIBUTING.md, "What is public").
Each is loaded on first use: `import erc_toolkit` does not import PyTorch.

    import erc_toolkit

    manifest = erc_toolkit.load_manifest("manifest.jsonl")
    erc_toolkit.extract(manifest, "features.h5", modalities=("text",))
    run = erc_toolkit.train("features.h5", "run", recipe="demo")
    print(erc_toolkit.evaluate("run")["weighted_f1"])
    best = erc_toolkit.study("features.h5", "study", grid={"model.window": [2, 5]}, recipe="demo")
    print(erc_toolkit.compare("study/window-2", "study/window-5").differences)
    turns = erc_toolkit.Predictor("run").predict("scene.mp4", "scene.srt")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .toolkit.base.version import __version__

if TYPE_CHECKING:
    from .extract.api import extract
    from .toolkit.base.errors import FaultError, UserError
    from .toolkit.manifest import Manifest, Utterance, load_manifest
    from .toolkit.predict.predictor import Predictor
    from .toolkit.store import FeatureStore
    from .train.api import compare, evaluate, study, train, train_several
    from .train.data.dialogues import Dialogue, DialogueDataset, PaddedBatch, collate_packed, collate_padded

# Name -> the module that defines it. `extract` and `train` are callable packages (toolkit/base/callable_package.py).
_PUBLIC = {
    "Dialogue": "train.data.dialogues",
    "DialogueDataset": "train.data.dialogues",
    "FaultError": "toolkit.base.errors",
    "FeatureStore": "toolkit.store",
    "Manifest": "toolkit.manifest",
    "PaddedBatch": "train.data.dialogues",
    "Predictor": "toolkit.predict.predictor",
    "UserError": "toolkit.base.errors",
    "Utterance": "toolkit.manifest",
    "collate_packed": "train.data.dialogues",
    "collate_padded": "train.data.dialogues",
    "compare": "train.api",
    "evaluate": "train.api",
    "study": "train.api",
    "train_several": "train.api",
    "load_manifest": "toolkit.manifest",
}

__all__ = [
    "Dialogue",
    "DialogueDataset",
    "FaultError",
    "FeatureStore",
    "Manifest",
    "PaddedBatch",
    "Predictor",
    "UserError",
    "Utterance",
    "__version__",
    "collate_packed",
    "collate_padded",
    "compare",
    "evaluate",
    "extract",
    "load_manifest",
    "study",
    "train",
    "train_several",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in ("extract", "train"):
        return import_module(f".{name}", __name__)
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
