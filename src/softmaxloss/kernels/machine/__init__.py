"""How kernels are compiled, and what they ask of the machine."""
