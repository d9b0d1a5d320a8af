"""Runs as pages of pictures: ``report.html`` of one run, and several compared."""
