"""Graphs whose nodes are utterances in one modality, and the layers over them."""
