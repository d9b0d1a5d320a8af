"""The datasets that can be converted, each from its public layout; ``catalogue`` opens them by name."""
