"""Other libraries than PyTorch that compute a network on the CPU, where they are really faster."""
