"""What every face of the library shares: rows, summaries, checks, threads, kernels."""
