"""Speed and accuracy of this library beside others."""
