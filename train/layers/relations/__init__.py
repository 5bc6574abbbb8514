"""Graphs whose edges have relations, by speaker and order, and the layers over them."""
