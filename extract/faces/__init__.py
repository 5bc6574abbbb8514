"""Faces in frames: detection, tracks, and the one that speaks."""
