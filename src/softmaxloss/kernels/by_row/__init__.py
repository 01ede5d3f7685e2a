"""Memory crossed row by row, one block of classes at a time."""
