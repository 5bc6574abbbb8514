"""DF-GCN: the model, its parts and its variants."""
