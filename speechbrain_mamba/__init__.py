"""Mamba layers, models and recipes for SpeechBrain, after "Speech Slytherin" (Jiang et al., arXiv 2407.09732)."""

__version__ = "0.2.0"
