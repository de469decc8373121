"""The networks that a re-activation compares, and the images of both sides."""

import jax
import numpy as np
import pytest

from rnp_jax.checkpoints import save_variables
from rnp_jax.config import ComputeOptions, DataOptions, SourceOptions, TriggerOptions
from rnp_jax.errors import ConfigError
from rnp_jax.models import Architecture, Network
from rnp_jax.pipeline.parties import KnownOptions, open_parties, open_scene

IMAGES = DataOptions(test_images=60)


def open_two(checkpoint, original, reference=None):
    files = (str(checkpoint), None if original is None else str(original), reference and str(reference))
    return open_parties(*files, (), SourceOptions(), IMAGES, ComputeOptions())


@pytest.fixture
def uncarded(small_victim, tmp_path):
    """The small victim as a defense writes it: without a card."""
    model = open_two(small_victim, None).purified
    save_variables(tmp_path / "cleaned.pt", model.network, model.variables)
    return tmp_path / "cleaned.pt"


def test_a_file_without_a_card_is_read_as_the_original_is(small_victim, uncarded):
    parties = open_two(uncarded, small_victim, uncarded)
    assert parties.purified.card is None
    assert parties.purified.network == parties.original.network == parties.reference.network
    assert parties.carrier is parties.original


def test_the_attacker_has_training_images_and_the_trigger_on_those_it_is_to_turn(small_victim, uncarded):
    parties = open_two(uncarded, small_victim)
    scene = open_scene(parties, IMAGES, KnownOptions(size=50, seed=3), TriggerOptions())
    assert len(scene.known.labels) == 50
    target = scene.trigger.goal.one_target
    np.testing.assert_array_equal(scene.turned.indices, np.flatnonzero(scene.known.labels != target))
    assert set(scene.turned.wanted.tolist()) == {target}
    assert (scene.turned.images != scene.known.images[scene.turned.indices]).any()
    tested = {image.tobytes() for image in scene.test.images}
    assert not tested & {image.tobytes() for image in scene.known.images}


def test_an_attacker_with_more_images_than_there_are_has_all(small_victim):
    parties = open_two(small_victim, None)
    scene = open_scene(parties, IMAGES, KnownOptions(size=100_000), TriggerOptions())
    assert len(scene.known.labels) == 1297


def test_without_a_trigger_nothing_can_be_brought_back(small_victim):
    with pytest.raises(ConfigError, match="the trigger is not known, and without it nothing can be brought back: give"):
        open_scene(open_two(small_victim, None), IMAGES, KnownOptions(), TriggerOptions(attack="none"))


def test_networks_for_other_classes_do_not_fit(small_victim, tmp_path):
    network = Network(Architecture("mlp", 5, 0, (("0", 4), ("2", 5)), (8, 8, 3)))
    save_variables(tmp_path / "other.pt", network, network.init(jax.random.key(0)))
    with pytest.raises(ConfigError, match=r"knows 5 classes, but .* knows 10: give networks for the same images"):
        open_two(small_victim, None, tmp_path / "other.pt")


def test_a_head_on_features_is_no_network_that_reads_images(head):
    with pytest.raises(ConfigError, match="reactivate takes networks that read images"):
        open_two(head, None)
