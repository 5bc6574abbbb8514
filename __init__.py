"""Multimodal emotion recognition in conversations: raw corpora to features, features to trained models."""

from .toolkit.base.version import __version__

__all__ = ["__version__"]
