"""Feature extraction: from raw video, audio and transcripts to features in one HDF5 store."""

from ..toolkit.base.callable_package import make_callable

make_callable(__name__, f"{__name__}.api", "extract")
