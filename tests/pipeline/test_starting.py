"""What every run on one checkpoint does first."""

import pytest

from rnp_jax.commands.arguments import parse
from rnp_jax.defenses import METHODS
from rnp_jax.errors import ConfigError, DataError
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.starting import start_run


def request(victim, method: str = "clp", *options: str) -> Request:
    return Request.of(str(victim), METHODS[method], parse("defend", [str(victim), "--method", method, *options])[1])


def test_the_folder_is_chosen_and_the_model_is_open(small_victim, tmp_path, capsys):
    out, log = tmp_path / "out", RunLog()
    cleaned, model, same = start_run(request(small_victim), "defend", str(out), log)
    assert (cleaned, same) == (out / "cleaned.pt", log)
    assert not out.exists()
    assert model.network.architecture.num_classes == 10
    assert list(log.timing) == ["load checkpoint"]
    assert f"reading {small_victim}" in "".join(capsys.readouterr().err.split("\n"))
    assert start_run(request(small_victim), "check").cleaned.parent.name == f"check-{small_victim.stem}"


def test_what_cannot_be_run_is_said_before_anything_is_made(small_victim, tmp_path):
    (tmp_path / "report.html").touch()
    with pytest.raises(DataError, match="already contains a finished result"):
        start_run(request(small_victim), "defend", str(tmp_path))
    with pytest.raises(ConfigError, match=r"--rnp\.prune\.number 100000: mlp has 36 filters"):
        start_run(request(small_victim, "rnp", "--rnp.prune.number", "100000"), "defend", str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()
