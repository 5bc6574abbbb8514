"""Other projects' feature files: converted to feature stores, exported from them, and described in dataset cards."""
