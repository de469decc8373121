"""The commands of ``rnp-jax``, one a file: a frozen dataclass of options and a function that runs them."""
