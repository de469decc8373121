"""What a method is given and judged on, from a small victim's card and from options."""

import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from rnp_jax import masks
from rnp_jax.card import read_card, write_card
from rnp_jax.checkpoints import load_model, save_variables
from rnp_jax.config import ComputeOptions, DataOptions, DefenseSetOptions, SourceOptions, TriggerOptions
from rnp_jax.data import load
from rnp_jax.defenses import METHODS
from rnp_jax.defenses.result import NO_CANDIDATES, Choice, Defended
from rnp_jax.errors import CheckpointError, ConfigError, DataError
from rnp_jax.models import Architecture, Network, mlp_head
from rnp_jax.pipeline.case import Case, defended_model, open_case
from rnp_jax.pipeline.images import open_images
from rnp_jax.pipeline.opening import open_model
from rnp_jax.pipeline.options import RunOptions, UntrustedOptions
from rnp_jax.pipeline.request import Request
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.suspect import Suspect
from rnp_jax.pipeline.training_set import remake
from rnp_jax.torch_io import read_checkpoint
from rnp_jax.training.extended import extract
from tests.runs import CHECKPOINT

IMAGES = DataOptions(image_size=8, test_images=100)


@pytest.fixture(scope="module")
def victim(small_victim) -> Suspect:
    return open_model(str(small_victim), SourceOptions(), ComputeOptions())


def ask(name: str, path: object = "a.pt", images: DataOptions = IMAGES, **options) -> Request:
    return Request.of(str(path), METHODS[name], RunOptions(method=name, images=images, **options))


def open_quietly(model: Suspect, request: Request, *images) -> Case:
    return open_case(model, request, RunLog(quiet=True), *images)


def test_a_method_on_clean_images_works_on_the_model_itself(victim):
    log = RunLog(quiet=True)
    case = open_case(victim, ask("clp", defense=DefenseSetOptions(size=40, holdout=0.25)), log)
    assert (case.network, case.variables, case.anew, case.poisoned) == (victim.network, victim.variables, False, None)
    assert case.clean_images == (40, 10)
    assert len(case.sets.clean.labels) == len(case.test) == 100
    np.testing.assert_array_equal(case.sets.clean.images, case.test.images)
    assert case.trigger is not None
    assert (case.sets.target, len(case.sets.triggered.labels)) == (3, 90)
    assert list(log.timing) == ["load images"]
    nothing = open_quietly(victim, ask("clp", defense=DefenseSetOptions(size=40, holdout=0)))
    assert (nothing.holdout, nothing.clean_images) == (None, (40, 0))
    unknown = open_quietly(victim, ask("clp", trigger=TriggerOptions(attack="none")))
    assert (unknown.trigger, unknown.sets.triggered) == (None, None)


def test_clean_images_that_are_read_already_are_not_read_again(victim, monkeypatch):
    given = open_images(victim, IMAGES, DefenseSetOptions(size=20))
    monkeypatch.setattr("rnp_jax.pipeline.case.open_images", pytest.fail)
    case = open_quietly(victim, ask("clp", images=DataOptions(data="none")), lambda: given)
    assert case.data.images is given[0].images
    assert case.test is given[2]


def test_what_images_without_a_test_part_are_used_for_is_said(victim, tmp_path):
    data = load("digits", image_size=8)
    np.savez(tmp_path / "own.npz", images=data.images[:200], labels=data.labels[:200])
    log = RunLog(quiet=True)
    log.write_to(tmp_path / "run.log")
    case = open_case(victim, ask("clp", images=DataOptions(data=str(tmp_path / "own.npz"))), log)
    learned, held, tested = len(case.data.labels), case.clean_images[1], len(case.test)
    assert (learned + held + tested, held) == (200, round(0.2 * (learned + held)))
    assert 30 <= tested <= 40
    told = f"the 200 images have no test part of their own: {learned} to learn from, {held} to choose by, {tested} to "
    assert told in (tmp_path / "run.log").read_text("utf-8")
    open_case(victim, ask("clp"), log)
    assert (tmp_path / "run.log").read_text("utf-8").count("no test part") == 1


def test_a_head_s_case_is_of_features(head):
    model, log = open_model(str(head), SourceOptions(), ComputeOptions()), RunLog(quiet=True)
    case = open_case(model, ask("clp", images=DataOptions(test_images=20), defense=DefenseSetOptions(size=20)), log)
    assert model.extractor is not None
    assert case.data.images.shape == (16, 1, 1, 64)
    np.testing.assert_array_equal(case.sets.clean.images[:, 0, 0], model.extractor(case.test.images))
    assert list(log.timing) == ["load images", "cache features"]


def test_an_untrusted_set_is_made_again_from_the_card(victim, small_victim):
    case = open_quietly(victim, ask("hid"))
    made = remake(victim.card, small_victim, load("digits", image_size=8))
    np.testing.assert_array_equal(case.data.images, made.data.images)
    np.testing.assert_array_equal(case.data.labels, made.data.labels)
    assert case.poisoned is not None
    np.testing.assert_array_equal(case.poisoned, made.poisoned)
    assert case.poisoned.sum() == 130
    assert (case.anew, case.holdout, case.clean_images) == (True, None, (0, 0))
    assert (case.network, case.variables) == (victim.network, None)
    np.testing.assert_array_equal(case.sets.clean.images, case.test.images)


def test_a_method_may_change_the_suspicious_network_by_an_untrusted_set(victim):
    case = open_quietly(victim, ask("dbr"))
    assert (case.network, case.variables) == (victim.network, victim.variables)
    assert (case.untrusted, case.anew, case.clean_images) == (True, False, (0, 0))
    assert case.poisoned is not None
    for options in (UntrustedOptions(width=4), UntrustedOptions(start="a.pt")):
        with pytest.raises(ConfigError, match="not read by --method dbr, which trains the checkpoint's own network"):
            open_quietly(victim, ask("dbr", untrusted=options))


def test_a_head_on_features_does_not_read_the_set(head):
    model = open_model(str(head), SourceOptions(), ComputeOptions())
    with pytest.raises(ConfigError, match="--method dbr learns from images: give a network that reads them"):
        open_quietly(model, ask("dbr", path=head, images=DataOptions(test_images=20)))


def write_set(path: Path, size: int = 8, split: str = "train") -> str:
    data, test = load("digits", split=split, image_size=size), load("digits", split="test", image_size=size)  # pyright: ignore[reportArgumentType]
    arrays = {"x_train": data.images, "y_train": data.labels, "x_test": test.images, "y_test": test.labels}
    np.savez(path, **arrays)
    return str(path)


def test_an_untrusted_set_that_is_given_has_no_truth(victim, tmp_path):
    path = write_set(tmp_path / "own.npz", size=16)
    case = open_quietly(victim, ask("hid", untrusted=UntrustedOptions(data=path)))
    assert case.poisoned is None
    assert case.data.images.shape == (1297, 8, 8, 3)  # as large as the network takes them
    same = UntrustedOptions(data=write_set(tmp_path / "test.npz", split="test"))
    with pytest.raises(DataError, match="100 test images are also in"):
        open_quietly(victim, ask("hid", untrusted=same))
    with pytest.raises(DataError, match=r"no data set, file or folder '.*none\.npz'"):
        open_quietly(victim, ask("hid", untrusted=UntrustedOptions(data=str(tmp_path / "none.npz"))))


def test_test_images_must_fit_the_network_that_is_trained(victim):
    with pytest.raises(DataError, match="images are 8x8x3, but the model takes 32x32x3"):
        open_quietly(victim, ask("hid", untrusted=UntrustedOptions(start=str(CHECKPOINT))))


def test_a_fresh_network_may_be_of_another_width(victim):
    model = open_model(str(CHECKPOINT), SourceOptions(), ComputeOptions())
    images = DataOptions(test_images=20)
    own = open_quietly(model, ask("hid", images=images))
    wide = open_quietly(model, ask("hid", images=images, untrusted=UntrustedOptions(width=5)))
    assert own.network == model.network
    assert wide.network == replace(own.network, architecture=replace(own.network.architecture, width=5))
    assert (own.variables, wide.variables) == (None, None)
    with pytest.raises(ConfigError, match=r"--untrusted\.width 4: mlp has no width"):
        open_quietly(victim, ask("hid", untrusted=UntrustedOptions(width=4)))


def save_start(path: Path, classes: int) -> tuple[Network, dict]:
    network = Network(Architecture("mlp", classes, 0, (("0", 12), ("2", classes)), (8, 8, 3)), (0.3,) * 3, (0.3,) * 3)
    variables = network.init(jax.random.key(7))
    save_variables(path, network, variables)
    return network, variables


@pytest.mark.parametrize("classes", [10, 16])
def test_weights_to_start_from_may_be_of_other_classes(classes, victim, small_victim, tmp_path):
    """Features are theirs to the bit; a last layer for other classes is drawn anew."""
    network, variables = save_start(tmp_path / "start.pt", classes)
    shutil.copy(small_victim.with_suffix(".card.json"), tmp_path / "start.card.json")
    card = read_card(small_victim, read_checkpoint(small_victim).sha256)
    assert card is not None
    architecture = card.architecture.model_copy(update={"num_classes": classes})
    sha256 = read_checkpoint(tmp_path / "start.pt").sha256
    write_card(tmp_path / "start.card.json", card.model_copy(update={"sha256": sha256, "architecture": architecture}))
    case = open_quietly(victim, ask("hid", untrusted=UntrustedOptions(start=str(tmp_path / "start.pt"))))
    assert case.network.architecture.num_classes == 10
    assert case.variables is not None
    images = case.test.images[:7]
    np.testing.assert_array_equal(extract(case.network, case.variables, images), extract(network, variables, images))
    assert case.variables["params"]["2"]["kernel"].shape == (12, 10)
    if classes == 10:
        np.testing.assert_array_equal(case.variables["params"]["2"]["kernel"], variables["params"]["2"]["kernel"])
    load_model(tmp_path / "start.pt")


@pytest.mark.parametrize(
    ("start", "kind", "message"),
    [
        ("{}", ConfigError, "not a file to train further: give a PyTorch checkpoint"),
        ("{}/missing.pt", CheckpointError, r"missing\.pt"),
    ],
)
def test_what_cannot_be_started_from(victim, start, kind, message, tmp_path):
    with pytest.raises(kind, match=message):
        open_quietly(victim, ask("hid", untrusted=UntrustedOptions(start=start.format(tmp_path))))


def test_a_head_is_replaced_by_a_network_like_its_extractor(head):
    model = open_model(str(head), SourceOptions(), ComputeOptions())
    case = open_quietly(model, ask("hid", images=DataOptions(test_images=20)))
    assert case.network == load_model(CHECKPOINT).network
    assert case.data.images.shape == (1297, 32, 32, 3)
    assert case.test.images.shape == (20, 32, 32, 3)
    assert model.extractor is not None
    np.testing.assert_array_equal(case.sets.clean.images[:, 0, 0], model.extractor(case.test.images))
    foreign = replace(model.extractor, provenance={"kind": "folder", "path": "clip", "sha256": "0"})
    with pytest.raises(ConfigError, match=r"is a head on digits_badnets, and --method hid cannot .*--untrusted\.start"):
        open_quietly(replace(model, extractor=foreign), ask("hid", images=DataOptions(test_images=20)))


def test_training_sets_that_are_not_known(victim):
    with pytest.raises(DataError, match=r"small\.pt has no card to rebuild its training set from"):
        open_quietly(replace(victim, card=None), ask("hid", images=replace(IMAGES, data="digits")))
    batchwise = open_model(str(CHECKPOINT.with_name("digits_wanet.pt")), SourceOptions(), ComputeOptions())
    with pytest.raises(DataError, match=r"wanet, which poisoned each batch .*give the training set itself with --untr"):
        open_quietly(batchwise, ask("hid", images=DataOptions(test_images=20)))


def test_the_model_after_tuning_or_pruning_is_the_same_with_other_weights(victim):
    case = open_quietly(victim, ask("clp"))
    variables = masks.bake(victim.variables, victim.network.placement)
    found = defended_model(case, Defended(variables, {}, "weights", NO_CANDIDATES, Choice(pruned=0, rule="tuned")))
    assert found.variables is variables
    assert replace(found, variables=victim.variables) == victim or found.network is victim.network
    assert (found.extractor, found.checkpoint) == (None, victim.checkpoint)


def test_the_model_after_training_anew_is_a_head_on_the_new_features(victim):
    case = open_quietly(victim, ask("hid"))
    extractor, head = victim.network, mlp_head(16, (5,), 10)
    weights, fresh = extractor.init(jax.random.key(1)), head.init(jax.random.key(2))
    defended = Defended(
        fresh, {}, "score", NO_CANDIDATES, Choice(pruned=0, rule="none"), network=head, extractor=(extractor, weights)
    )
    found = defended_model(case, defended)
    assert (found.network, found.variables) == (head, fresh)
    assert found.extractor is not None
    assert found.extractor.dim == 16
    images = case.test.images[:20]
    np.testing.assert_allclose(found.extractor(images), extract(extractor, weights, images), rtol=1e-6)
    assert defended_model(case, replace(defended, extractor=None)).extractor is None
