import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rnp_jax.attacks import BadNets
from rnp_jax.config import ComputeOptions, DataOptions, SourceOptions, TriggerOptions
from rnp_jax.errors import ArchitectureError, ConfigError, DataError
from rnp_jax.pipeline.images import open_data
from rnp_jax.pipeline.opening import choose_out, open_model
from rnp_jax.pipeline.trigger import open_trigger
from tests.runs import CHECKPOINT


def test_output_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert choose_out(None, "models/a.tar", "defend", "report.html") == Path("runs/defend-a")
    assert choose_out("here", "a.pt", "defend", "report.html") == Path("here")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "result.json").touch()  # of a run that was killed before its last file
    assert choose_out("here", "a.pt", "defend", "report.html") == Path("here")
    (tmp_path / "here" / "report.html").touch()
    with pytest.raises(DataError, match="here already contains a finished result"):
        choose_out("here", "a.pt", "defend", "report.html")
    with pytest.raises(DataError, match=r"report\.html is not a folder"):
        choose_out("here/report.html", "a.pt", "defend", "report.html")
    with pytest.raises(ConfigError, match="--out is runs/defend-a\udcff, which is not UTF-8"):
        choose_out(None, "a\udcff.pt", "defend", "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


@pytest.fixture(scope="module")
def model():
    return open_model(str(CHECKPOINT), SourceOptions(), ComputeOptions())


def test_the_card_says_what_the_options_leave_open(model):
    assert model.network.architecture.image_shape == model.card.architecture.image_shape == (32, 32, 3)
    assert model.network.mean == model.card.normalization.mean
    test = open_data(model, DataOptions(test_images=30), "test")
    assert np.bincount(test.labels).tolist() == [3] * 10
    trigger = open_trigger(model, TriggerOptions(), test)
    assert trigger is not None
    assert (trigger.attack, trigger.goal.target, len(trigger.test.labels)) == (BadNets(), 0, 27)
    assert len(open_data(model, DataOptions(test_images=30), "train")) == 1297
    other = open_model(str(CHECKPOINT), SourceOptions(image_shape=(16, 16, 3), normalization="half"), ComputeOptions())
    assert (other.network.architecture.image_shape, other.network.mean) == ((16, 16, 3), (0.5, 0.5, 0.5))
    assert open_data(other, DataOptions(), "test").image_shape == (16, 16, 3)


def copy_head(head: Path, folder: Path) -> str:
    for suffix in (".pt", ".card.json", ".trigger.npz"):
        shutil.copy(head.with_suffix(suffix), folder)
    return str(folder / head.name)


def test_a_head_whose_extractor_is_not_there(head, tmp_path):
    path = copy_head(head, tmp_path)
    with pytest.raises(
        DataError, match=r"digits_badnets\.pt does not exist; .* this extractor, digits_badnets: .* with --ex"
    ):
        open_model(path, SourceOptions(), ComputeOptions())
    given = open_model(path, SourceOptions(extractor=str(CHECKPOINT)), ComputeOptions())
    assert given.extractor is not None
    assert given.network == open_model(str(head), SourceOptions(), ComputeOptions()).network


@pytest.mark.parametrize("where", ["beside", "given"])
def test_a_head_whose_extractor_is_another(where, head, tmp_path):
    path, other = copy_head(head, tmp_path), CHECKPOINT.with_name("digits_clean.pt")
    for suffix in (".pt", ".card.json"):
        shutil.copy(other.with_suffix(suffix), (tmp_path / CHECKPOINT.name).with_suffix(suffix))
    source = SourceOptions() if where == "beside" else SourceOptions(extractor=str(other))
    with pytest.raises(DataError, match=r"sha256 [0-9a-f]{64}, but the head was trained on features of digits_badnets"):
        open_model(path, source, ComputeOptions())


def test_a_head_without_a_card_needs_its_extractor(head, tmp_path):
    shutil.copy(head, tmp_path)
    path = str(tmp_path / head.name)
    with pytest.raises(ArchitectureError, match="vectors of 64 features; say which with image shape"):
        open_model(path, SourceOptions(), ComputeOptions())
    model = open_model(path, SourceOptions(extractor=str(CHECKPOINT)), ComputeOptions())
    assert model.extractor is not None
    assert model.card is None
    with pytest.raises(ConfigError, match="no data: give --data"):
        open_data(model, DataOptions(), "test")


def test_an_extractor_of_another_width(head, tmp_path):
    shutil.copy(head, tmp_path)  # no card: nothing says which extractor it needs
    wide = SourceOptions(extractor=str(CHECKPOINT.with_name("cifar10_badnets.pt")))
    with pytest.raises(ArchitectureError, match=r"head\.pt is not a head on the 128 features of cifar10_badnets: .*64"):
        open_model(str(tmp_path / head.name), wide, ComputeOptions())
    with pytest.raises(ArchitectureError, match=r"is not a head on the 64 features of digits_badnets: .*resnet18"):
        open_model(str(CHECKPOINT), SourceOptions(extractor=str(CHECKPOINT)), ComputeOptions())
    with pytest.raises(DataError, match=r"cifar10_badnets gives 128 features, but .*head\.pt reads 64"):
        open_model(str(tmp_path / head.name), replace(wide, image_shape=(8, 8, 1)), ComputeOptions())
