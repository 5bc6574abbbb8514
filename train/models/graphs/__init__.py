"""Models of graphs over a dialogue's utterances and modalities."""
