"""The feature store: one HDF5 file with utterances, dialogues and feature matrices (docs/reference/store.md has the schema)."""

from .feature import Feature
from .reader import FeatureStore
from .writer import FeaturePart, StoreWriter

__all__ = ["Feature", "FeaturePart", "FeatureStore", "StoreWriter"]
