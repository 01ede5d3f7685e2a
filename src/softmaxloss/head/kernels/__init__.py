"""The compiled loops of the sampled backward pass."""
