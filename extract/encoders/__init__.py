"""Encoders of text, audio and faces: one file a kind."""
