"""The whole command with a small network: what is written, what is said, and with which status it ends."""

import os

import pytest

from rnp_jax.checkpoints import save_variables
from rnp_jax.cli import main
from rnp_jax.config import read_yaml
from rnp_jax.document import read_document
from rnp_jax.pipeline.reactivation_document import NO_FLOOR
from rnp_jax.report.reactivation import ReactivationResult

SMALL = (
    *("--test-images", "60", "--batch-size", "20", "--known.size", "100"),
    *("--ra.images", "2", "--ra.finetune.epochs", "2", "--ra.finetune.batch-size", "32", "--lmc.points", "2"),
)

ENOUGH = (*SMALL[2:], "--test-images", "500")
"""With intervals narrow enough to tell."""


@pytest.fixture
def clean_file(small_clean, tmp_path):
    """A clean network without a card, as a reference and as what a perfect defense would leave."""
    save_variables(tmp_path / "clean.pt", *small_clean)
    return tmp_path / "clean.pt"


def test_a_trigger_that_still_works_is_said_so_and_ends_with_status_3(small_victim, clean_file, tmp_path, capsys):
    out = tmp_path / "out"
    files = ("--original", str(small_victim), "--reference", str(clean_file))
    assert main(["reactivate", str(small_victim), *files, "--by", "ra", "lmc", *SMALL, "--out", str(out)]) == 3
    result = read_document(out / "result.json", ReactivationResult)
    assert result.finding == "still works"
    assert [each.name for each in result.attempts] == ["ra", "lmc"]
    assert [each.role for each in result.others] == ["original", "reference"]
    assert (result.attack.name, result.data.defense_images, result.data.test_images) == ("badnets", 100, 60)
    assert sorted(os.listdir(out)) == ["config.yaml", "report.html", "result.json", "run.log"]
    assert "The trigger still works" in (out / "report.html").read_text("utf-8")
    assert read_yaml(out / "config.yaml")["ra"]["images"] == [2]
    told = " ".join(capsys.readouterr().err.split())
    for said in (
        "verdict The trigger still works",
        "LMC explains: ",
        "rnp-jax: VerdictError: exit status 3: the trigger",
    ):
        assert said in told


def test_a_clean_network_is_not_called_clean_and_ends_with_status_0(small_victim, clean_file, tmp_path, capsys):
    out = tmp_path / "out"
    files = ("--original", str(small_victim), "--reference", str(clean_file))
    assert main(["reactivate", str(clean_file), *files, "--by", "ra", *ENOUGH, "--out", str(out)]) == 0
    result = read_document(out / "result.json", ReactivationResult)
    assert (result.finding, result.verdict.level, result.verdict.supported) == ("not recovered", "ok", False)
    assert result.attempts[0].after == result.attempts[0].floor
    assert "not known Whether the network is clean" in " ".join(capsys.readouterr().err.split())


def test_without_a_reference_it_says_what_cannot_be_said(small_victim, clean_file, tmp_path):
    out = tmp_path / "out"
    tuning = ("--ra.images", "60", "--ra.finetune.epochs", "40", "--ra.finetune.learning-rate", "0.1")
    options = (*SMALL[:6], *tuning, "--ra.finetune.batch-size", "32", "--out", str(out))
    assert main(["reactivate", str(clean_file), "--original", str(small_victim), "--by", "ra", *options]) == 5
    result = read_document(out / "result.json", ReactivationResult)
    assert result.finding == "no reference"
    assert NO_FLOOR in result.unknown


def test_a_finished_folder_is_not_written_again(small_victim, tmp_path, fails):
    (tmp_path / "report.html").touch()
    assert "already contains a finished result" in fails("reactivate", small_victim, "--out", tmp_path)


def test_the_help_tells_the_statuses(capsys):
    assert main(["reactivate", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for said in ("is 0 if no attempt brought the backdoor back", "3 if one did", "5 if that cannot be told"):
        assert said in told
