"""Models without a paper, which a paper's model must beat."""
