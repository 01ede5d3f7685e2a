"""The kernels that read logits row by row, one block of classes at a time."""
