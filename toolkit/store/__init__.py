"""The feature store: an HDF5 file of utterances, dialogues and feature matrices (schema: docs/reference/store.md)."""

from .feature import Feature
from .reader import FeatureStore, is_extracted
from .writer import FeaturePart, StoreWriter

__all__ = ["Feature", "FeaturePart", "FeatureStore", "StoreWriter", "is_extracted"]
