import os

import pytest

from rnp_jax.sweep.environment import set_variables


@pytest.fixture(autouse=True)
def known(monkeypatch):
    monkeypatch.setenv("RNP_TEST_OLD", "old")
    monkeypatch.delenv("RNP_TEST_NEW", raising=False)


def look():
    return os.environ.get("RNP_TEST_OLD"), os.environ.get("RNP_TEST_NEW")


@pytest.mark.parametrize(("replace", "meanwhile"), [(False, "old"), (True, "changed")])
def test_variables_are_set_for_a_while(replace, meanwhile):
    with set_variables({"RNP_TEST_OLD": "changed", "RNP_TEST_NEW": "new"}, replace):
        assert look() == (meanwhile, "new")
    assert look() == ("old", None)


def fail_within():
    with set_variables({"RNP_TEST_OLD": "changed", "RNP_TEST_NEW": "new"}, replace=True):
        del os.environ["RNP_TEST_NEW"]
        raise KeyError


def test_variables_are_as_before_whatever_happens_and_whoever_removes_them():
    with pytest.raises(KeyError):
        fail_within()
    assert look() == ("old", None)
