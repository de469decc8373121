import subprocess
import sys

import pytest

from rnp_jax.data.loading import load
from rnp_jax.errors import ConfigError, DataError


def test_digits_are_built_in():
    assert load("digits", split="test").images.shape == (500, 32, 32, 3)
    assert load("digits", split="test", image_size=8).images.shape == (500, 8, 8, 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("diggits", "no data set, file or folder 'diggits'; did you mean digits"),
        ("cifar12", "did you mean cifar10"),
        ("./nowhere/x", r"'./nowhere/x'\. Data is digits, .*prepared under .*: none"),
        ("cifar10", r"not prepared under .*pip install tensorflow-cpu.*download_and_prepare\(\)"),
        ("cifar10:3.0.2", "not prepared under"),
    ],
)
def test_unknown_names_say_what_is_possible(tmp_path, name, message):
    with pytest.raises(DataError, match=message):
        load(name, data_dir=tmp_path)


def test_files_of_unknown_kind_are_refused(tmp_path):
    (tmp_path / "images.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="a file of unknown kind; data is digits"):
        load(tmp_path / "images.zip")


def test_impossible_options_are_refused():
    with pytest.raises(ConfigError, match="split is 'val'"):
        load("digits", split="val")
    with pytest.raises(ConfigError, match="image_size is 0"):
        load("digits", image_size=0)


def test_importing_the_package_loads_no_data_library():
    code = "import sys, rnp_jax.data; print([m for m in ('sklearn', 'tensorflow_datasets') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_home_folder_that_is_not_there_is_no_traceback():
    with pytest.raises(DataError, match="there is no data set, file or folder '~nobody-of-that-name/x'"):
        load("~nobody-of-that-name/x", data_dir="~nobody-of-that-name")
