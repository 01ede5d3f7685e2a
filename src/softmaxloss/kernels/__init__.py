"""The compiled loops. They know logits and the descriptor of rows, and nothing of the caller's arguments."""
