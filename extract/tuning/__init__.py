"""Training of encoders before extraction: a text encoder on a corpus, a face network on labelled faces."""
