"""What computed a result."""

import importlib.metadata
import platform

import jax

from rnp_jax.threads import count_threads


def package_versions() -> dict[str, str]:
    """Versions of this package, Python and the libraries that decide the figures."""
    packages = {"rnp_jax": "rnp-jax", "jax": "jax", "jaxlib": "jaxlib", "flax": "flax", "numpy": "numpy"}
    found = {name: importlib.metadata.version(package) for name, package in packages.items()}
    return {**found, "python": platform.python_version()}


def device_name() -> str:
    """The accelerator, or the processor and the number of its threads, that computed."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{device.platform}: {device.device_kind}"
    count = count_threads()
    return f"{device.platform}, {count} thread{'s' * (count > 1)}"
