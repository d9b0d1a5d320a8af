"""Measuring a representation."""
