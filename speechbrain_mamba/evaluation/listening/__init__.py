"""Listening tests: pages that people fill in, and what their answers say."""
