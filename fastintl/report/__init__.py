"""Runs as HTML pages: ``report.html`` of one run, and several compared."""
