"""The engine: decoded pictures and a table of draws in, normalised crops out."""
