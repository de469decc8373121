import platform

import jax

import rnp_jax.report.schema as schema
from rnp_jax.pipeline.versions import device_name, package_versions


def test_versions_are_those_a_result_needs():
    found = package_versions()
    assert schema.Versions(**found).python == platform.python_version()
    assert found["jax"] == jax.__version__


def test_the_device():
    assert device_name().startswith(jax.default_backend())


def test_the_number_of_threads_is_part_of_a_processor_s_name(monkeypatch):
    monkeypatch.setenv("NPROC", "3")
    assert jax.default_backend() != "cpu" or device_name() == "cpu, 3 threads"
