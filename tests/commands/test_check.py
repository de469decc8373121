"""The whole way with a small network: what is written, what is said, and with which status it ends."""

import os

import pytest

from rnp_jax.cli import main
from rnp_jax.commands.check import CheckOptions
from rnp_jax.config import read_yaml
from rnp_jax.document import read_document
from rnp_jax.errors import ConfigError
from rnp_jax.pipeline.judging import AT_CHANCE
from rnp_jax.report.check import Check

WRONG = ("--normalization", "5,5,5/0.01,0.01,0.01")


def test_a_network_at_chance_is_not_looked_at_and_ends_with_a_status_of_its_own(small_victim, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["check", str(small_victim), *WRONG, "--attack", "none", "--out", str(out)]) == 5
    check = read_document(out / "check.json", Check)
    assert (check.conclusion, check.written, check.detection, check.defense) == ("unchecked", None, None, None)
    assert check.verdict.headline == AT_CHANCE
    assert sorted(os.listdir(out)) == ["check.json", "config.yaml", "report.html", "run.log"]
    page = (out / "report.html").read_text("utf-8")
    assert AT_CHANCE in page
    assert "better than guessing" in page
    assert read_yaml(out / "config.yaml")["detection"]["seed"] == 0
    told = " ".join(capsys.readouterr().err.split())
    for said in (
        "network mlp, 10 classes, images of 8x8x3",
        "normalisation 5, 5, 5 / 0.01, 0.01, 0.01; as --normalization says",
        "images that nothing learns from; ",
        "WARNING: ACC is ",
        "not known Everything: the network was neither examined nor changed.",
        "new file none: the network was left as it came",
        "rnp-jax: VerdictError: exit status 5: the network could not be checked",
    ):
        assert said in told


def test_a_finished_folder_is_not_written_again(small_victim, tmp_path, fails):
    (tmp_path / "report.html").touch()
    assert "already contains a finished result" in fails("check", small_victim, "--out", tmp_path)


def test_a_head_on_features_is_no_network_that_reads_images(head, fails):
    assert "check takes networks that read images. Use defend" in fails("check", head)


def test_no_other_method_removes():
    with pytest.raises(ConfigError, match=r"--method rnp: .* use 'rnp-jax defend'"):
        CheckOptions("model.pt", method="rnp")


def test_the_help_tells_the_statuses(capsys):
    assert main(["check", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for said in ("is 0 if there is no evidence", "3 if a backdoor was found", "4 if one was found", "5 if the network"):
        assert said in told
