"""The models by name. A model's module is imported when it is asked for.

A model is a `torch.nn.Module` that is built by `Model(config, dims, speakers, class_counts, class_weights)`, maps a
`train.batch.Batch` (and the epoch, for what changes during training) to an object with `logits` [N, C] and, where its
modalities have opinions of their own, `unimodal` (modality to [N, C]); its `loss(output, batch)` gives the scalar to minimise.
Its class holds `Settings`, a dataclass made with `train.config.setting` whose first field is `name`, and `about`.

Other packages add models through entry points: `my-model = my_package.module:MyModel` in the group `erc_toolkit.models`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from toolkit.errors import UserError

AMB_DSGDN = "amb-dsgdn"
ENTRY_POINTS = "erc_toolkit.models"
MODELS = {
    AMB_DSGDN: "train.models.amb_dsgdn:AMBDSGDN",
    "logistic-regression": "train.models.logistic_regression:LogisticRegression",
    "bigru": "train.models.bigru:BiGRU",
    "sdt": "train.models.sdt:SDT",
    "merc-gcn": "train.models.merc_gcn:MERCGCN",
    "mmgcn": "train.models.mmgcn:MMGCN",
    "mm-dfn": "train.models.mm_dfn:MMDFN",
    "dialoguernn": "train.models.dialoguernn:DialogueRNN",
    "multiemo": "train.models.multiemo:MultiEMO",
    "dialoguegcn": "train.models.dialoguegcn:DialogueGCN",
    "cogmen": "train.models.cogmen:COGMEN",
    "df-gcn": "train.models.df_gcn:DFGCN",
}


@dataclass(frozen=True)
class About:
    """What `erc-toolkit models` says of a model.

    Attributes:
        title: its name in print.
        paper: where it is described; "none, ours" for an anchor.
        specified: how far our implementation rests on what its authors published: "in full: code and paper", "their code",
            "reconstruction: …".
    """

    title: str
    paper: str
    specified: str


@cache
def models() -> dict[str, str]:
    """Name to "module:Class" of every model, those of other packages included; ours come first and cannot be replaced."""
    others = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINTS)}
    return {**MODELS, **{name: value for name, value in sorted(others.items()) if name not in MODELS}}


def model_class(name: str) -> type:
    """The class of a model.

    Raises:
        UserError: there is no model of that name, or its package is broken.
    """
    if name not in models():
        raise UserError(f"model.name: no model {name!r}; there is {', '.join(models())}")
    module, _, attribute = models()[name].partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        if name in MODELS:
            raise
        raise UserError(f"model {name!r} of another package cannot be loaded ({error})") from None


def settings_class(name: str) -> type:
    """The dataclass of a model's settings.

    Raises:
        UserError: there is no model of that name.
    """
    return model_class(name).Settings
