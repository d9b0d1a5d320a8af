"""How fast the training step is here, beside the authors' way of it, and what the loader leaves of that."""
