"""The targets, see ``tests.fuzzing``."""
