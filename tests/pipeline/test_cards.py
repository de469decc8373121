"""What a command writes beside the model that it trained."""

import jax
import pytest

from rnp_jax.card import ExtractorCard
from rnp_jax.checkpoints import save_variables
from rnp_jax.evaluation.metrics import Metrics, Proportion
from rnp_jax.extractors import open_extractor
from rnp_jax.models import mlp_head
from rnp_jax.pipeline.cards import describe_extractor, describe_model
from rnp_jax.pipeline.versions import device_name
from rnp_jax.torch_io import read_checkpoint
from tests.runs import CHECKPOINT, copy_checkpoint


@pytest.mark.parametrize(
    ("head", "path"), [("head.pt", "digits_badnets.pt"), ("heads/deep/head.pt", "../../digits_badnets.pt")]
)
def test_the_extractor_s_path_is_relative_to_the_card(head, path, tmp_path):
    extractor = open_extractor(copy_checkpoint(tmp_path))
    sha256 = read_checkpoint(CHECKPOINT).sha256
    expected = ExtractorCard(path=path, name="digits_badnets", dim=64, sha256=sha256)
    assert describe_extractor(extractor, tmp_path / head) == expected


@pytest.mark.parametrize("shares", [(0.75, 0.5, 0.25), (0.75, None, None)])
def test_a_card_is_of_the_file_just_written(shares, tmp_path, monkeypatch):
    monkeypatch.setenv("NPROC", "3")  # what --threads sets
    network = mlp_head(3, (4,), 2, "bfloat16")
    save_variables(tmp_path / "head.pt", network, network.init(jax.random.key(0)))
    metrics = Metrics(
        acc=Proportion.of(3, 4),
        asr=None if shares[1] is None else Proportion.of(2, 4),
        ra=None if shares[2] is None else Proportion.of(1, 4),
    )
    card = describe_model(
        tmp_path / "head.pt",
        network,
        data="digits",
        train_images=9,
        attack=None,
        extractor=None,
        training={"epochs": 1},
        augmentation={},
        seed=4,
        metrics=metrics,
    )
    assert card.sha256 == read_checkpoint(tmp_path / "head.pt").sha256
    assert (card.file, card.train_images, card.seed, card.precision) == ("head.pt", 9, 4, "bfloat16")
    assert (card.architecture.name, card.architecture.width, card.architecture.image_shape) == ("mlp", 0, (1, 1, 3))
    assert (card.normalization.mean, card.normalization.std) == ((0.0,) * 3, (1.0,) * 3)
    assert (card.acc, card.asr, card.ra) == shares
    assert card.extractor is None
    assert (card.device, card.device.endswith(", 3 threads")) == (device_name(), card.device.startswith("cpu"))
