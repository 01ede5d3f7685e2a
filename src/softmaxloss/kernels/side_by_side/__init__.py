"""Memory crossed class by class, many rows at a time."""
