"""Streams: their turns as soon as these have ended, with the features that the whole recording would give."""

from .recording import LiveRecording

__all__ = ["LiveRecording"]
