"""Transcripts of recordings, as speech recognisers, captioners and people write them, as turns with times."""
