"""Training of encoders before extraction: a text encoder on a corpus, or a face network on labelled faces."""
