"""Combinations of system, mixer, layout, form and reading: what is tried with each; see __main__.py."""
