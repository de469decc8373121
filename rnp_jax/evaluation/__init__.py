"""Figures of a model: clean accuracy, attack success rate, robust accuracy."""
