"""What is compared where nothing is said, and that an interrupted run goes on."""

import jax
import pytest

from rnp_jax.checkpoints import save_variables
from rnp_jax.errors import Interrupted
from rnp_jax.models import Architecture, Network
from rnp_jax.pipeline import keeping, reactivating
from rnp_jax.pipeline.reactivating import reactivate_checkpoint
from rnp_jax.pipeline.reactivation_options import ReactivationOptions
from rnp_jax.pipeline.run_log import RunLog
from tests.reactivation.small import SMALL


def test_by_default_networks_that_are_unlike_are_not_compared(small_victim, tmp_path):
    network = Network(Architecture("mlp", 10, 0, (("0", 4), ("2", 10)), (8, 8, 3)))
    save_variables(tmp_path / "other.pt", network, network.init(jax.random.key(0)))
    victim = str(small_victim)
    options = ReactivationOptions(victim, original=victim, reference=str(tmp_path / "other.pt"), **SMALL)
    result, _ = reactivate_checkpoint(options, str(tmp_path / "out"), RunLog(quiet=True))
    assert [each.name for each in result.attempts] == ["ra"]
    untried = [each for each in result.untried if "networks of one architecture" in each]
    assert [each.partition(" ")[0] for each in untried] == ["LMC", "BEC"]
    assert result.attempts[0].floor is not None


def test_an_interrupted_run_goes_on_after_the_last_network_that_was_retuned(small_victim, tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "WORTH", 0.0)
    options = ReactivationOptions(str(small_victim), by=("ra",), **SMALL)
    describe = reactivating.describe_reactivation

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(reactivating, "describe_reactivation", interrupt)
    with pytest.raises(Interrupted, match=r"states keeps what is finished \(ra\)"):
        reactivate_checkpoint(options, str(tmp_path / "out"), RunLog(quiet=True))
    monkeypatch.setattr(reactivating, "describe_reactivation", describe)
    result, page = reactivate_checkpoint(options, str(tmp_path / "out"), RunLog(quiet=True))
    log = (tmp_path / "out" / "run.log").read_text("utf-8")
    assert log.count("ra: taken from the interrupted run") == 2  # with no triggered image, and with two
    assert page.exists()
    assert not (tmp_path / "out" / "states").exists()
    assert result.finding == "still works"
