"""The kernels that read logits class by class, many rows at a time."""
