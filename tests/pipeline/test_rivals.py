"""A wrong normalisation is given away by a right one that is known."""

import json

import pytest

from rnp_jax.cli import main
from rnp_jax.config import ComputeOptions, SourceOptions
from rnp_jax.data import load
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.rivals import warn_of_rivals
from tests.runs import CHECKPOINT, SMALL

TEST = load("digits", split="test")


def warn(normalization: str | None) -> tuple[str, ...]:
    source = SourceOptions(normalization=normalization)
    return warn_of_rivals(open_model(str(CHECKPOINT), source, ComputeOptions()), source, TEST)


@pytest.mark.parametrize("normalization", [None, "digits", "0.305,0.305,0.305/0.32,0.32,0.32"])
def test_nothing_is_said_of_a_right_one(normalization):
    assert warn(normalization) == ()


def test_a_far_better_one_is_named_with_both_accuracies():
    (sentence,) = warn("2,2,2/0.5,0.5,0.5")
    assert "that was given (2,2,2/0.5,0.5,0.5), the network classifies 1" in sentence
    assert "of 200 clean images correctly, with --normalization digits 100.0%" in sentence


def test_evaluate_warns_and_records_it(tmp_path, capsys):
    given = ("--normalization", "2,2,2/0.5,0.5,0.5", "--out", str(tmp_path / "a.json"))
    assert main(["evaluate", str(CHECKPOINT), *SMALL, *given]) == 0
    assert "WARNING: With the normalisation that was given (2,2,2/0.5,0.5,0.5)" in capsys.readouterr().err
    assert any("--normalization digits" in each for each in json.loads((tmp_path / "a.json").read_text())["warnings"])
