"""Where things are kept between runs; what ``check_private`` refuses is tested with the cache of compiled programs."""

from pathlib import Path

import pytest

from rnp_jax.cache_folder import cache_folder, check_private, is_switched_on
from rnp_jax.errors import ConfigError


def test_a_variable_names_the_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("RNP_JAX_CACHE_DIR", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("RNP_JAX_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder() == Path("/cache/rnp_jax/programs")


@pytest.mark.parametrize(("value", "on"), [("on", True), ("off", False), ("", True)])
def test_a_variable_switches_it_off(monkeypatch, value, on):
    monkeypatch.setenv("RNP_JAX_CACHE", value)
    assert is_switched_on() is on


def test_another_value_is_refused(monkeypatch):
    monkeypatch.setenv("RNP_JAX_CACHE", "maybe")
    with pytest.raises(ConfigError, match="RNP_JAX_CACHE is 'maybe'; expected on or off"):
        is_switched_on()


def test_a_folder_of_one_s_own_is_private(tmp_path):
    check_private(tmp_path)
