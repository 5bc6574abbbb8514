"""Encoders of faces, frames and clips."""
