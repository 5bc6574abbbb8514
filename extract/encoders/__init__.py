"""Encoders of text, audio and faces, one file per kind."""
