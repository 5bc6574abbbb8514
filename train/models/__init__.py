"""The models by name. A model's module is imported when it is asked for.

A model is a `torch.nn.Module` that is built by `Model(config, dims, speakers, class_counts, class_weights)`, maps a
`train.batch.Batch` (and the epoch, for what changes during training) to an object with `logits` [N, C], and whose
`loss(output, batch)` gives the scalar to minimise.
"""

from __future__ import annotations

from importlib import import_module

from toolkit.errors import UserError

MODELS = {
    "amb-dsgdn": "train.models.amb_dsgdn:AMBDSGDN",
}


def model_class(name: str) -> type:
    """The class of a model.

    Raises:
        UserError: there is no model of that name.
    """
    if name not in MODELS:
        raise UserError(f"model.name: no model {name!r}; there is {', '.join(MODELS)}")
    module, attribute = MODELS[name].split(":")
    return getattr(import_module(module), attribute)
