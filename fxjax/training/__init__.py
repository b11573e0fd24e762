"""Training of the networks, and what a training run keeps and measures."""
