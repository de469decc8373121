"""What computed a result."""

import importlib.metadata
import platform

import jax


def package_versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries that decide the figures."""
    packages = {"rnp_jax": "rnp-jax", "jax": "jax", "jaxlib": "jaxlib", "flax": "flax", "numpy": "numpy"}
    found = {name: importlib.metadata.version(package) for name, package in packages.items()}
    return {**found, "python": platform.python_version()}


def device_name() -> str:
    """The accelerator, or the processor, that computed."""
    device = jax.devices()[0]
    return f"{device.platform}: {device.device_kind}"
