"""Features in a store become a trained model of emotion in conversations, and its table of results."""

from ..toolkit.base.callable_package import make_callable

make_callable(__name__, f"{__name__}.api", "train")
