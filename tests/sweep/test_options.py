from dataclasses import replace

import pytest

from rnp_jax.config import ComputeOptions, DataOptions, TriggerOptions, resolve, to_plain
from rnp_jax.defenses import ClpConfig, ThresholdConfig
from rnp_jax.errors import ConfigError
from rnp_jax.sweep.items import Item
from rnp_jax.sweep.options import SweepOptions, item_key, item_options

OPTIONS = SweepOptions(
    inputs=("a.pt",), clp=ClpConfig(ThresholdConfig("std", u=2.0)), images=DataOptions(data="digits")
)
FILE = "0" * 64


def test_an_item_s_options_are_those_of_a_single_run():
    overrides = {"image_shape": [8, 8, 1], "normalization": "digits", "attack": "blend", "target": 3, "data": "cifar10"}
    given = item_options(OPTIONS, Item("k", "b.pt", FILE, "rnp", "", overrides))
    assert (given.checkpoint, given.method, given.source.image_shape) == ("b.pt", "rnp", (8, 8, 1))
    assert given.trigger == TriggerOptions("blend", 3)
    assert given.images.data == "cifar10"
    assert given.clp == ClpConfig(), "of another method"
    assert item_options(OPTIONS, Item("k", "b.pt", FILE, "clp")).clp == OPTIONS.clp


def key_of(options=OPTIONS, method="clp", path="a.pt", sha256=FILE, **overrides):
    return item_key(options, method, path, sha256, overrides)


def test_a_key_depends_on_what_decides_the_row(tmp_path):
    path = tmp_path / "a.pt"
    before = key_of(path=str(path))
    path.with_suffix(".card.json").write_text("{}")
    others = [
        key_of(),
        key_of(method="rnp"),
        key_of(sha256="1" * 64),
        key_of(attack="sig"),
        key_of(replace(OPTIONS, seed=1)),
        key_of(replace(OPTIONS, clp=ClpConfig(ThresholdConfig("std", u=3.5)))),
        before,
        key_of(path=str(path)),
    ]
    assert len(set(others)) == len(others)


def test_a_key_does_not_depend_on_how_it_is_computed():
    for options in (
        replace(OPTIONS, compute=ComputeOptions(batch_size=7)),
        replace(OPTIONS, workers=3, engine="ray", out="elsewhere", inputs=("b.pt",)),
        replace(OPTIONS, images=DataOptions(data="digits", data_dir="elsewhere")),
        replace(OPTIONS, method=("clp", "rnp"), rnp=replace(OPTIONS.rnp)),
    ):
        assert key_of(options) == key_of()


def test_resolved_options_are_options_again():
    assert resolve(SweepOptions, to_plain(OPTIONS)) == OPTIONS


def test_a_preset_of_a_single_run_is_one_of_a_sweep():
    assert resolve(SweepOptions, {"method": "clp"}).method == ("clp",)


@pytest.mark.parametrize("values", [{"workers": 0}, {"seed": -1}, {"sweep_images": -1}, {"method": ["hid"]}])
def test_impossible_values(values):
    with pytest.raises(ConfigError):
        resolve(SweepOptions, values)
