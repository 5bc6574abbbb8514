"""What studies measure, a file each; `base.py` has the contract, `registry.py` the names."""
