"""Normalisations that files bring as tensors: found, used, held against what is given, written back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from rnp_jax.checkpoints import load_model, save_model
from rnp_jax.data import Normalization, parse_normalization
from rnp_jax.errors import CheckpointError, DataError
from rnp_jax.normaliser import find_pairs, is_same, spell
from rnp_jax.torch_io import find_state_dict, read_checkpoint
from tests.networks import build_random, images_for

MODULE = build_random("resnet18")
STATE = MODULE.state_dict()
MEAN, STD = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.4, 0.5, 0.6])
WORDS = "0.1,0.2,0.3/0.4,0.5,0.6"


def named(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in STATE.items()}


def image_shaped(value: torch.Tensor) -> torch.Tensor:
    return value.reshape(1, 3, 1, 1)


FORMS = {
    "Sequential": {"0.mean": image_shaped(MEAN), "0.std": image_shaped(STD), **named("1.")},
    "beside the layers": {"mu": image_shaped(MEAN), "sigma": image_shaped(STD), **STATE},
    "a layer beside the layers": {"normalize.mean": MEAN, "normalize.std": STD, **STATE},
    "behind the layers": {**named("model."), "norm._mean": MEAN.reshape(3, 1, 1), "norm._std": STD.reshape(3, 1, 1)},
    "robustness": {
        "module.normalizer.new_mean": MEAN.reshape(3, 1, 1),
        "module.normalizer.new_std": STD.reshape(3, 1, 1),
        **named("module.model."),
        "module.attacker.normalize.new_mean": MEAN.reshape(3, 1, 1),
        "module.attacker.normalize.new_std": STD.reshape(3, 1, 1),
        **named("module.attacker.model."),
    },
    "smoothing": {"0.means": MEAN, "0.sds": STD, **named("1.module.")},
    "of 0 to 255": {"0.mean": 255 * MEAN, "0.std": 255 * STD, **named("1.")},
}


@pytest.mark.parametrize("form", FORMS)
def test_the_file_s_own_normalisation_is_used_and_stays(form, tmp_path):
    torch.save({"state_dict": FORMS[form]}, tmp_path / "m.pt")
    model = load_model(tmp_path / "m.pt")
    assert spell(Normalization(model.network.mean, model.network.std)) == WORDS
    assert model.assumptions[-1].startswith(f"The file brings its normalisation, {WORDS}, as ")
    assert load_model(tmp_path / "m.pt", normalization=WORDS).network == model.network
    with pytest.raises(DataError) as caught:
        load_model(tmp_path / "m.pt", normalization="half")
    assert WORDS in str(caught.value)
    assert "the normalisation that was given is 0.5,0.5,0.5/0.5,0.5,0.5; leave out --normalization" in str(caught.value)
    save_model(tmp_path / "same.pt", model, model.variables)
    after = torch.load(tmp_path / "same.pt", weights_only=True)["state_dict"]
    assert list(after) == list(FORMS[form])
    assert all(after[name].numpy().tobytes() == value.numpy().tobytes() for name, value in FORMS[form].items())


def test_the_arithmetic_is_torch_s(tmp_path):
    torch.save(FORMS["Sequential"], tmp_path / "m.pt")
    model, images = load_model(tmp_path / "m.pt"), images_for("resnet18")
    with torch.no_grad():
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).astype(np.float32)) / 255
        expected = MODULE((pixels - image_shaped(MEAN)) / image_shaped(STD))
    found = jax.jit(lambda variables: model.network(variables, jnp.asarray(images))[0])(model.variables)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_one_value_is_for_all_channels(tmp_path):
    torch.save({"0.mean": torch.tensor([0.25]), "0.std": torch.tensor([0.5]), **named("1.")}, tmp_path / "m.pt")
    assert load_model(tmp_path / "m.pt").network.mean == (0.25,) * 3


def test_impossible_values_are_refused_and_two_that_differ_say_nothing(tmp_path):
    torch.save({"0.mean": MEAN, "0.std": 0 * STD, **named("1.")}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r'tensors "0\.mean" and "0\.std": .*std above 0'):
        load_model(tmp_path / "m.pt")
    two = {"a.mean": MEAN, "a.std": STD, "b.mean": MEAN, "b.std": STD / 2, **named("net.")}
    torch.save(two, tmp_path / "m.pt")
    with pytest.raises(DataError, match="no card that says how"):
        load_model(tmp_path / "m.pt")
    assert load_model(tmp_path / "m.pt", normalization="half").network.mean == (0.5,) * 3


@pytest.mark.parametrize(
    ("extra", "count"),
    [
        ({}, 0),
        ({"0.mean": torch.ones(3)}, 0),
        ({"mean": torch.ones(64), "std": torch.ones(64)}, 0),
        ({"mean": torch.ones(3), "std": torch.ones(1)}, 0),
        ({"mean": torch.ones(3, 3), "std": torch.ones(3, 3)}, 0),
        ({"pixel_mean": MEAN, "pixel_std": STD}, 1),
    ],
)
def test_only_pairs_of_a_value_for_each_channel_count(extra, count, tmp_path):
    torch.save({**STATE, **extra}, tmp_path / "m.pt")
    assert len(list(find_pairs(find_state_dict(read_checkpoint(tmp_path / "m.pt"))))) == count


def test_rounded_values_are_the_same():
    one = parse_normalization("0.4914,0.4822,0.4465/0.2023,0.1994,0.2010")
    assert is_same(one, parse_normalization("0.49139968,0.48215841,0.44653091/0.2023,0.1994,0.2010"))
    assert not is_same(one, parse_normalization("cifar10_bb"))
    assert is_same(parse_normalization("half"), parse_normalization("0.5/0.5"))
    assert not is_same(one, Normalization((0.5, 0.5), (0.5, 0.5)))


class Unsaved(torch.nn.Module):
    """A normalisation in one of the ways that no state dict has."""

    def __init__(self, form: str):
        super().__init__()
        if form == "buffers":
            self.register_buffer("mean", image_shaped(MEAN), persistent=False)
            self.register_buffer("std", image_shaped(STD), persistent=False)
        else:
            self.mean = MEAN if form == "tensors" else MEAN.tolist()
            self.std = STD if form == "tensors" else tuple(STD.tolist()) if form == "tuples" else STD.tolist()


@pytest.mark.parametrize("form", ["buffers", "tensors", "lists", "tuples"])
def test_a_normalisation_that_a_whole_module_does_not_save_is_used(form, tmp_path):
    torch.save(torch.nn.Sequential(Unsaved(form), MODULE), tmp_path / "m.pt")
    model = load_model(tmp_path / "m.pt")
    assert spell(Normalization(model.network.mean, model.network.std)) == WORDS
    assert model.assumptions[-1] == f'The file brings its normalisation, {WORDS}, as "0.mean" and "0.std".'
    assert load_model(tmp_path / "m.pt", normalization=WORDS).network == model.network
    with pytest.raises(DataError, match=r"normalises images itself.*leave out --normalization"):
        load_model(tmp_path / "m.pt", normalization="half")
