"""Models that read a dialogue in its order: recurrent and Transformer networks."""
