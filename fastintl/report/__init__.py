"""Runs as pages of images: ``report.html`` of one run, and several compared."""
