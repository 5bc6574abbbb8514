"""Graphs of a dialogue's speakers (`graph.Graph`), and the layers over them."""
