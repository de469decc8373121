"""Help pages that are kept between runs."""

import os

import pytest

from rnp_jax import help_cache
from rnp_jax.errors import ConfigError
from rnp_jax.help_cache import forget_help, keep_help, read_help

ARGUMENTS = ["defend", "--method", "clp", "--help"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("RNP_JAX_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.delenv("RNP_JAX_CACHE", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path / "kept"


def test_a_page_is_found_again_for_the_same_words_width_and_code(folder, monkeypatch):
    assert read_help(ARGUMENTS) is None
    keep_help(ARGUMENTS, "the page: é\n")
    assert read_help(ARGUMENTS) == "the page: é\n"
    assert read_help([*ARGUMENTS[:2], "rnp", "--help"]) is None
    with monkeypatch.context() as changed:
        changed.setenv("COLUMNS", "80")
        assert read_help(ARGUMENTS) is None
    monkeypatch.setattr(help_cache, "code_version", lambda: "f" * 64)
    assert read_help(ARGUMENTS) is None
    keep_help(ARGUMENTS, "newer")
    assert len(list((folder / "help").iterdir())) == 1, "pages of other versions go"


def test_a_preset_has_its_say_so_nothing_is_kept(folder):
    for arguments in (["defend", "--config", "a.yaml", "--help"], ["defend", "--config=a.yaml", "--help"]):
        keep_help(arguments, "page")
        assert read_help(arguments) is None
    assert not folder.exists()


def test_without_the_cache_nothing_is_kept(folder, monkeypatch):
    monkeypatch.setenv("RNP_JAX_CACHE", "off")
    keep_help(ARGUMENTS, "page")
    assert read_help(ARGUMENTS) is None
    assert not folder.exists()


def test_a_folder_that_others_may_write_to_is_not_read(folder):
    keep_help(ARGUMENTS, "page")
    (version,) = (folder / "help").iterdir()
    os.chmod(version, 0o777)
    assert read_help(ARGUMENTS) is None


def test_pages_are_forgotten(folder):
    forget_help()
    keep_help(ARGUMENTS, "page")
    forget_help()
    assert read_help(ARGUMENTS) is None
    os.chmod(folder / "help", 0o777)
    with pytest.raises(ConfigError, match="others may write"):
        forget_help()


def test_a_page_that_is_no_regular_file_is_not_waited_for(folder):
    keep_help(["defend", "--help"], "page")
    (page,) = folder.glob("help/*/*.txt")
    page.unlink()
    os.mkfifo(page)
    assert read_help(["defend", "--help"]) is None
