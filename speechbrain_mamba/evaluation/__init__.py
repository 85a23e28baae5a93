"""Scores and reports of a test, by task."""
