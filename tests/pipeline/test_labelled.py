"""Cards of models that a calibration is made from, and everything that may be wrong with them."""

from pathlib import Path

import jax
import pytest

from rnp_jax.card import CARD_SUFFIX, AttackCard, beside, read_card, write_card
from rnp_jax.checkpoints import save_variables
from rnp_jax.errors import DataError
from rnp_jax.evaluation.metrics import Metrics, Proportion
from rnp_jax.models import Architecture, Network
from rnp_jax.pipeline.cards import describe_model
from rnp_jax.pipeline.labelled import is_weak, read_labelled
from rnp_jax.torch_io import read_checkpoint
from tests.runs import CHECKPOINT

MLP = Network(Architecture("mlp", 3, 0, (("0", 3),), (1, 2, 3)))
BADNETS = AttackCard(
    name="badnets",
    constants={},
    target=1,
    mapping="all_to_one",
    rate=0.1,
    variant="bb",
    poisoned=1,
    indices_sha256=None,
)


def plant(folder: Path, seed: int, attack: AttackCard | None, data: str = "digits", hits: int = 10) -> str:
    path = folder / f"{seed}.pt"
    save_variables(path, MLP, MLP.init(jax.random.key(seed)))
    metrics = Metrics(acc=Proportion.of(9, 10), asr=None if attack is None else Proportion.of(hits, 10))
    card = describe_model(
        path, MLP, data=data, train_images=1, extractor=None, training={}, augmentation={}, seed=seed, attack=attack,
        metrics=metrics,
    )  # fmt: skip
    write_card(beside(path, CARD_SUFFIX), card)
    return str(path)


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("known")
    return [plant(folder, seed, BADNETS if seed % 2 else None) for seed in range(8)]


def test_cards_that_fit_together(known):
    found = read_labelled(known)
    assert [each.path for each in found] == known
    assert [each.card.attack is None for each in found] == [True, False] * 4


def test_a_backdoor_that_hardly_works_is_no_backdoored_model(known, tmp_path):
    weak = plant(tmp_path, 9, BADNETS, hits=4)
    assert len(read_labelled([*known, weak])) == 9
    with pytest.raises(DataError, match=r"^4 clean and 3 backdoored models: expected at least 4 of each"):
        read_labelled([*known[:-1], weak])


@pytest.mark.parametrize(("data", "kinds"), [(None, 1), ("digits", 0)])
def test_other_data_is_another_kind_unless_one_is_given_for_all(known, tmp_path, data, kinds):
    other = plant(tmp_path, 9, BADNETS, data="mine")
    if kinds:
        with pytest.raises(DataError, match="on mine, but the first is mlp, 3 classes, on digits"):
            read_labelled([*known, other], data)
    else:
        assert len(read_labelled([*known, other], data)) == 9


def test_no_checkpoints():
    with pytest.raises(DataError, match="no checkpoints: give files"):
        read_labelled([])


def test_backdoors_that_hardly_work():
    card = read_card(CHECKPOINT, read_checkpoint(CHECKPOINT).sha256)
    assert card is not None
    assert card.attack is not None
    assert not is_weak(card)
    assert is_weak(card.model_copy(update={"asr": 0.4}))
    assert is_weak(card.model_copy(update={"attack": card.attack.model_copy(update={"weak": True})}))
    assert not is_weak(card.model_copy(update={"attack": None, "asr": None}))
