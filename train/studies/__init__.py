"""Variants of a recipe, trained and compared."""
