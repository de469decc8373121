"""Triggers recovered from a network and clean images."""
