"""Layers of models for emotion recognition in conversations."""
