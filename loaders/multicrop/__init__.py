"""The engine: decoded images and a table of draws in, normalised crops out."""
