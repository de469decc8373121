"""Jitted training."""
