"""The frame of adaptive trainings: plain by itself, resumed, told and saved epoch by epoch."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnp_jax.attacks import Goal, Lira
from rnp_jax.errors import ConfigError
from rnp_jax.training.adaptation import Adaptation, Course, check_marks, train_adaptively
from rnp_jax.training.backdoor import PoisonConfig, train_backdoored
from rnp_jax.training.epoch import Marked
from rnp_jax.training.supervised import Moment, TrainConfig, train, train_epoch
from tests.compiled import count_compiled
from tests.linear import Linear, linear_data, linear_variables

CONFIG = TrainConfig(epochs=3, batch_size=5, learning_rate=0.1)
KEY = jax.random.key(0)


def course(count: int = 17, marked: int = 0) -> Course:
    data = linear_data(count)
    marks = np.arange(count) < marked
    network: object = Linear()  # an ``Apply``, which is all that is used of it here
    return Course(network, linear_variables(), CONFIG, None, None, Marked(*data, marks), data)  # pyright: ignore


@dataclass(frozen=True)
class Backwards:
    """The gradient times a number, with a count of the steps and of the marked images."""

    factor: float = -1.0

    def gradient(self, moment: Moment):
        gradient, rest = jax.grad(moment.loss, has_aux=True)(moment.params)
        count = moment.memory + jnp.stack([jnp.int32(1), moment.batch.marks.sum(dtype=jnp.int32)])
        return jax.tree.map(lambda slope: self.factor * slope, gradient), rest, count


@dataclass(frozen=True)
class Reversed(Adaptation):
    factor: float = -1.0

    def start(self, network, variables, key, config, count):
        return super().start(network, variables, key, config, count)._replace(memory=jnp.zeros(2, jnp.int32))

    def twist(self, network):
        del network
        return Backwards(self.factor)


def test_by_itself_it_is_plain_training_bit_for_bit_and_the_same_program():
    expected, history = train(Linear(), linear_variables(), linear_data(17), KEY, CONFIG)
    before = count_compiled(train_epoch)
    found, told = train_adaptively(Adaptation(), course(), KEY)
    assert jax.tree.all(jax.tree.map(np.array_equal, found, expected))
    np.testing.assert_array_equal(told["loss"], history["loss"])
    assert count_compiled(train_epoch) == before


def test_a_twist_decides_the_step_keeps_a_memory_and_sees_marks():
    states = []
    rising, history = train_adaptively(Reversed(), course(marked=17), KEY, save=states.append)
    assert states[-1].memory.tolist() == [9, 45]
    assert history["loss"][-1] > history["loss"][0]
    before = count_compiled(train_epoch)
    found, _ = train_adaptively(Reversed(1.0), course(), KEY)
    assert count_compiled(train_epoch) == before  # numbers of a twist are arguments of the program
    expected, _ = train(Linear(), linear_variables(), linear_data(17), KEY, CONFIG)
    np.testing.assert_allclose(found["params"]["fc"]["kernel"], expected["params"]["fc"]["kernel"], rtol=1e-5)
    assert rising["batch_stats"]["steps"] == 9


def test_a_run_goes_on_from_a_saved_state():
    states = []
    whole, _ = train_adaptively(Reversed(), course(), KEY, save=states.append)
    resumed, rest = train_adaptively(Reversed(), course(), KEY, state=states[0])
    assert jax.tree.all(jax.tree.map(np.array_equal, resumed, whole))
    assert rest["loss"].shape == (2,)


def test_marks_are_required_where_poisoned_images_must_be_known():
    check_marks(course(marked=1))
    with pytest.raises(ConfigError, match="no image is poisoned before training"):
        check_marks(course())


def test_too_few_images_are_refused():
    with pytest.raises(ConfigError, match="batch_size 5 exceeds the 4 training images"):
        train_adaptively(Adaptation(), course(4), KEY)


def test_attacks_that_train_their_victims_are_not_adapted():
    data = linear_data(17)
    with pytest.raises(ConfigError, match="Lira trains its victim in its own way; remove"):
        train_backdoored(Linear(), Lira(), Goal(num_classes=3), data, 0, CONFIG, PoisonConfig(), adapt=Adaptation())  # pyright: ignore
