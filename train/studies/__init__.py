"""Variants of a recipe, trained and set side by side."""
