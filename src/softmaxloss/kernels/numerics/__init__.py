"""How numbers are computed: exponential, logarithm, double-double arithmetic, and sums."""
