"""Layers over the utterances of a dialogue in order: Transformers, recurrence."""
