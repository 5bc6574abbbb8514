"""The models by name. A model's module is imported when it is asked for.

A model is a `torch.nn.Module` that is built by `Model(config, dims, speakers, class_counts, class_weights)`, maps a
`erc_toolkit.train.data.batch.Batch` (and the epoch, for what changes during training) to an object with `logits` [N, C] and, where its
modalities have opinions of their own, `unimodal` (modality to [N, C]); its `loss(output, batch)` gives the scalar to minimise.
Its class holds `Settings`, a dataclass made with `erc_toolkit.train.settings.setting` whose first field is `name`, and `about`.

Other packages add models through entry points: `my-model = my_package.module:MyModel` in the group `erc_toolkit.models`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from ...toolkit.base.errors import UserError

AMB_DSGDN = "amb-dsgdn"
ENTRY_POINTS = "erc_toolkit.models"
MODELS = {
    AMB_DSGDN: "erc_toolkit.train.models.amb_dsgdn:AMBDSGDN",
    "logistic-regression": "erc_toolkit.train.models.logistic_regression:LogisticRegression",
    "bigru": "erc_toolkit.train.models.bigru:BiGRU",
    "sdt": "erc_toolkit.train.models.sdt:SDT",
    "merc-gcn": "erc_toolkit.train.models.merc_gcn:MERCGCN",
    "mmgcn": "erc_toolkit.train.models.mmgcn:MMGCN",
    "mm-dfn": "erc_toolkit.train.models.mm_dfn:MMDFN",
    "dialoguernn": "erc_toolkit.train.models.dialoguernn:DialogueRNN",
    "multiemo": "erc_toolkit.train.models.multiemo:MultiEMO",
    "dialoguegcn": "erc_toolkit.train.models.dialoguegcn:DialogueGCN",
    "cogmen": "erc_toolkit.train.models.cogmen:COGMEN",
    "df-gcn": "erc_toolkit.train.models.df_gcn:DFGCN",
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
