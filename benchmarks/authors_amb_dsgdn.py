"""The authors' own code of AMB-DSGDN, run from a folder with their repository, to compare with.

Nothing of it is copied: their `model.py`, `dataloader.py` and `train.py` are imported from the folder, and their data
set, loader, model and loop run as they are, on the CPU, with a pickle of our synthetic features in their layout. Their
script's main part is not used, as it needs CUDA.
"""

from __future__ import annotations

import importlib
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from erc_toolkit.train.data.batch import Conversations
from erc_toolkit.train.loop.plan import Plan
from erc_toolkit.train.models.subgraphs.amb_dsgdn import AMBDSGDN

SLOTS = {"iemocap": 2, "meld": 9}  # speakers that their model distinguishes; it knows these two numbers only
_MODULES = ("model", "dataloader", "train")
_INPUT = {"text": "textf_input", "audio": "acouf_input", "visual": "visuf_input"}


class Authors:
    """Their model with the weights of ours, and their loop over the same dialogues.

    Args:
        folder: their repository.
        corpus: "iemocap" or "meld".
        plan, data: of our run.
        scratch: a folder for the pickle that their data set reads.
    """

    def __init__(self, folder: Path, corpus: str, plan: Plan, data: Conversations, scratch: Path) -> None:
        self._theirs = _imported(folder)
        self._plan, self._corpus = plan, corpus
        settings, train = plan.config.model, plan.config.train
        features = scratch / f"{corpus}.pkl"
        _write_features(features, corpus, plan, data)
        self._loaders = {
            training: self._loader(features, settings.window, train.batch_size, training) for training in (True, False)
        }
        dims = {m: f.dim for m, f in plan.features.items()}
        ours = plan.model()
        assert isinstance(ours, AMBDSGDN)
        self.model: nn.Module = self._theirs["model"].Transformer_Based_Model(
            corpus.upper(),
            dims["text"],
            dims["visual"],
            dims["audio"],
            settings.heads,
            n_classes=ours.classes,
            hidden_dim=settings.hidden,
            n_speakers=SLOTS[corpus],
            dropout=settings.dropout,
            q_base=settings.q_base,
            lam=settings.lam,
            p_exe=settings.p_exe,
        )
        self.model.modality_drop.device = "cpu"  # otherwise it draws on a GPU
        weights = None if corpus == "meld" else ours.class_weights.clone()  # as in their script
        self._loss = self._theirs["model"].MaskedNLLLoss(weights)
        self._optimizer = torch.optim.Adam(self.model.parameters(), lr=train.lr, weight_decay=train.weight_decay)
        self._ours = ours

    def _loader(self, features: Path, window: int, size: int, training: bool) -> Any:
        """Their loader, as in `get_IEMOCAP_loaders` and `get_MELD_loaders` of their script."""
        name = {"iemocap": "IEMOCAPDataset", "meld": "MELDDataset"}[self._corpus]
        dataset = getattr(self._theirs["dataloader"], name)(str(features), windows=window, train=training)
        sampler = torch.utils.data.SubsetRandomSampler(range(len(dataset))) if training else None
        return torch.utils.data.DataLoader(dataset, size, sampler=sampler, collate_fn=dataset.collate_fn)

    def epoch(self, training: bool) -> None:
        """A pass over the training split, or over the test split."""
        self._theirs["train"].train_or_eval_model(
            self.model,
            self._loss,
            self._loaders[training],
            0,
            self._optimizer if training else None,
            training,
            dataset=self._corpus.upper(),
            warm_up_epochs=self._plan.config.model.dropout_warm_up,
        )

    def check(self, data: Conversations) -> None:
        """Raises an AssertionError unless their logits of the first test dialogues are those of our model."""
        _copy_weights(self._ours, self.model)
        text, visual, audio, speakers, mask, label, own, other, both = next(iter(self._loaders[False]))
        lengths = mask.sum(1).long().tolist()
        self.model.eval(), self._ours.eval()
        batch = data.batch(torch.from_numpy(self._plan.division.test[: len(lengths)]))
        with torch.no_grad():
            logits = self.model(text, visual, audio, mask, speakers.permute(1, 0, 2), lengths, own, other, both)[3]
            ours = self._ours(batch).logits
        torch.testing.assert_close(logits[mask.bool()], ours, rtol=1e-3, atol=1e-3)


def _imported(folder: Path) -> dict[str, ModuleType]:
    """Their modules, whose names are those of other modules too, so that they are forgotten afterwards."""
    kept = {name: sys.modules.pop(name) for name in _MODULES if name in sys.modules}
    sys.path.insert(0, str(folder))
    try:
        found = {name: importlib.import_module(name) for name in _MODULES}
    finally:
        sys.path.remove(str(folder))
        for name in _MODULES:
            sys.modules.pop(name, None)
        sys.modules.update(kept)
    found["train"].cuda = False  # their script's main part would set it
    return found


def _write_features(path: Path, corpus: str, plan: Plan, data: Conversations) -> None:
    """A pickle in the layout of the authors' files; the test split in our order."""
    columns: dict[str, dict[str, Any]] = {name: {} for name in ("speaker", "label", "text", "audio", "visual")}
    keys: dict[bool, list[str]] = {}
    for training, dialogues in ((True, plan.division.train), (False, plan.division.test)):
        keys[training] = []
        for d in dialogues.tolist():
            batch = data.batch(torch.tensor([d]))
            key = f"dialogue{d}"
            keys[training].append(key)
            who = batch.speakers.tolist()
            if corpus == "meld":
                columns["speaker"][key] = np.eye(SLOTS[corpus], dtype=np.int32)[who].tolist()
            else:
                columns["speaker"][key] = ["MF"[s] for s in who]
            columns["label"][key] = batch.labels.tolist()
            for m, x in batch.features.items():
                columns[m][key] = list(x.numpy())
    parts = [{}, columns["speaker"], columns["label"], columns["text"], {}, {}, {}, columns["audio"], columns["visual"]]
    parts += [{}, keys[True], keys[False]]
    if corpus == "meld":
        parts.append({})
    path.write_bytes(pickle.dumps(tuple(parts)))


def _copy_weights(ours: AMBDSGDN, theirs: Any) -> None:
    """Gives their model the weights of ours."""
    short = {"text": "t", "audio": "a", "visual": "v"}
    with torch.no_grad():
        _copy(theirs.speaker_embeddings, ours.speaker)
        for m, stream in ours.streams.items():
            s = short[m]
            _copy(getattr(theirs, _INPUT[m]), stream.projection)
            _copy(getattr(theirs, f"{s}_output_layer")[2], ours.heads[m])
            _copy_block(getattr(theirs, f"gat{s.upper()}er"), stream.inter)
            _copy_block(getattr(theirs, f"gat{s.upper()}"), stream.intra)
            if stream.encoder is None:
                continue
            _copy(getattr(theirs, f"{s}gate").gate[0], stream.gate)
            layer, encoder = getattr(theirs, f"{s}_{s}").transformer_inter[0], stream.encoder
            attention, feed = layer.self_attn, layer.feed_forward
            for mine, own in (
                (attention.linear_q, encoder.query),
                (attention.linear_k, encoder.key),
                (attention.linear_v, encoder.value),
                (attention.linear, encoder.output),
                (feed.w_1, encoder.inner),
                (feed.w_2, encoder.outer),
                (feed.layer_norm, encoder.norm),
            ):
                _copy(mine, own)


def _copy_block(theirs: Any, ours: Any) -> None:
    _copy(theirs.fc, ours.linear)
    _copy(theirs.layer_norm, ours.norm)
    for head, layer, h in (
        (theirs.attention_0, ours.heads, 0),
        (theirs.attention_1, ours.heads, 1),
        (theirs.out_att, ours.output, 0),
    ):
        head.W.copy_(layer.weight[:, h])
        head.relation_embedding.weight.copy_(layer.relation[h])
        head.layer_norm.weight.copy_(layer.norm_weight[h]), head.layer_norm.bias.copy_(layer.norm_bias[h])
        for sign, branch in (("pos", 0), ("neg", 1)):
            getattr(head, f"a_left_{sign}").weight.copy_(layer.left[h, branch][None])
            getattr(head, f"a_right_{sign}").weight.copy_(layer.right[h, branch][None])
            getattr(head, f"a_rel_{sign}").weight.copy_(layer.relation_score[h, branch][None])
            getattr(head, f"lambda_left{branch + 1}").copy_(layer.lambda_left[h, branch])
            getattr(head, f"lambda_right{branch + 1}").copy_(layer.lambda_right[h, branch])


def _copy(theirs: Any, ours: Any) -> None:
    theirs.load_state_dict(ours.state_dict())
