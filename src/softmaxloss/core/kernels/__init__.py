"""The compiled inner loops: plain Python functions over rows, compiled by Numba without the GIL."""
