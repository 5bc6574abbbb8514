"""Faces in frames: detection, tracking, and the choice of the speaker."""
