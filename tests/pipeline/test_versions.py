import platform

import jax

import rnp_jax.report.schema as schema
from rnp_jax.pipeline.versions import device_name, package_versions


def test_versions_are_those_a_result_needs():
    found = package_versions()
    assert schema.Versions(**found).python == platform.python_version()
    assert found["jax"] == jax.__version__


def test_the_device():
    assert device_name().startswith(f"{jax.default_backend()}: ")
