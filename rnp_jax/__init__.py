"""Backdoor removal for image classifiers in JAX."""
