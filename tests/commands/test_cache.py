"""``rnp-jax cache`` says what is kept and removes it when told."""

import pytest

from rnp_jax.cli import main
from rnp_jax.compilation import machine_name


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RNP_JAX_CACHE_DIR", str(tmp_path / "[programs]"))
    monkeypatch.setenv("RNP_JAX_CACHE", "on")
    return tmp_path / "[programs]"


def test_a_cache_that_does_not_exist_yet_is_empty_and_not_made(cache, capsys):
    assert main(["cache"]) == 0
    assert capsys.readouterr().out == f"folder    {cache}\nprograms  0\nsize      0.0 MiB\n"
    assert not cache.exists()


def test_what_is_kept_and_its_removal(cache, capsys):
    machine = cache / machine_name()
    machine.mkdir(parents=True, mode=0o700)
    cache.chmod(0o700)
    for i in range(3):
        (machine / f"jit_f{i}-cache").write_bytes(bytes(2**20))
    assert main(["cache"]) == 0
    assert capsys.readouterr().out == f"folder    {cache}\nprograms  3\nsize      3.0 MiB\n"
    assert main(["cache", "--clear"]) == 0
    assert capsys.readouterr().out == f"folder    {cache}\nprograms  3 removed\nsize      3.0 MiB\n"
    assert not list(machine.iterdir())


def test_a_cache_that_is_off_is_shown_as_such(cache, capsys, monkeypatch):
    monkeypatch.setenv("RNP_JAX_CACHE", "off")
    assert main(["cache"]) == 0
    assert "(off: RNP_JAX_CACHE=off)" in capsys.readouterr().out


def test_a_folder_that_others_may_write_to_is_refused(cache, fails):
    cache.mkdir()
    cache.chmod(0o777)
    assert "run chmod go-w" in fails("cache", "--clear")
