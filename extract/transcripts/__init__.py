"""Transcripts: the readers of subtitle formats, and the speakers that their texts name."""
