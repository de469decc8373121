"""What is asked of an item, and the key that tells whether its row is there already."""

from dataclasses import replace
from pathlib import Path

import pytest

from rnp_jax.config import ComputeOptions, DataOptions, TriggerOptions, resolve, to_plain
from rnp_jax.defenses import ClpConfig, ThresholdConfig, find_method
from rnp_jax.errors import ConfigError
from rnp_jax.pipeline.options import UntrustedOptions, schema_for
from rnp_jax.pipeline.request import Request
from rnp_jax.sweep.items import Item
from rnp_jax.sweep.options import SweepOptions, item_key, item_request

SCHEMA = schema_for(SweepOptions, ("clp", "rnp", "hid", "none"))
OPTIONS = SCHEMA(
    inputs=("a.pt",),
    method=("clp",),
    clp=ClpConfig(ThresholdConfig("std", u=2.0)),
    images=DataOptions(data="digits"),
)
FILE = "0" * 64


def test_an_item_s_request_is_that_of_a_single_run():
    overrides = {"image_shape": [8, 8, 1], "normalization": "digits", "attack": "blend", "target": 3, "data": "cifar10"}
    given = item_request(OPTIONS, Item("k", "b.pt", FILE, "rnp", "", overrides))
    assert (given.checkpoint, given.method.name, given.options.source.image_shape) == ("b.pt", "rnp", (8, 8, 1))
    assert given.options.trigger == TriggerOptions("blend", 3)
    assert given.options.images.data == "cifar10"
    assert given.settings == find_method("rnp").defaults
    assert item_request(OPTIONS, Item("k", "b.pt", FILE, "clp")).settings == OPTIONS.clp
    assert item_request(OPTIONS, Item("k", "b.pt", FILE, "none")).settings is None


def key_of(options=OPTIONS, method="clp", path="a.pt", sha256=FILE, write="row", **overrides):
    return item_key(Request.of(path, find_method(method), options).with_overrides(overrides), sha256, write)


def test_a_key_depends_on_the_content_of_the_data():
    request = Request.of("a.pt", find_method("clp"), OPTIONS)
    assert len({item_key(request, FILE, "row", data) for data in (None, "0" * 64, "1" * 64)}) == 3


def test_a_key_depends_on_what_decides_the_row(tmp_path):
    path = tmp_path / "a.pt"
    before = key_of(path=str(path))
    path.with_suffix(".card.json").write_text("{}")
    others = [
        key_of(),
        key_of(method="rnp"),
        key_of(sha256="1" * 64),
        key_of(write="report"),
        key_of(attack="sig"),
        key_of(replace(OPTIONS, seed=1)),
        key_of(replace(OPTIONS, evidence="always")),
        key_of(replace(OPTIONS, clp=ClpConfig(ThresholdConfig("std", u=3.5)))),
        before,
        key_of(path=str(path)),
    ]
    assert len(set(others)) == len(others)


def test_a_key_depends_on_the_attempt_to_bring_the_backdoor_back_where_one_is_made():
    for method, count in (("clp", 3), ("none", 1)):
        request = Request.of("a.pt", find_method(method), OPTIONS)
        assert len({item_key(request, FILE, "row", None, name) for name in ("none", "ra", "wba")}) == count


def keys_while(named: Path, options: SweepOptions, files: list[str], method: str = "clp") -> list[str]:
    """The key before and after each of the files beside the named one is written."""
    keys = [key_of(options, method)]
    for name in files:
        (named.parent / name).write_text("x")
        keys.append(key_of(options, method))
    return keys


def test_a_key_depends_on_the_trigger_s_picture_and_its_mask(tmp_path):
    named = tmp_path / "trojan.PNG"
    options = replace(OPTIONS, trigger=TriggerOptions(attack="stamp", target=0, artefact=str(named)))
    keys = keys_while(named, options, ["trojan.PNG", "trojan_mask.npy", "trojan_mask.png"])
    assert len(set(keys)) == 4
    assert keys_while(named, options, ["other_mask.npy"]) == [keys[-1]] * 2


def test_beside_an_artefact_of_arrays_no_mask_is_read(tmp_path):
    named = tmp_path / "trojan.npz"
    options = replace(OPTIONS, trigger=TriggerOptions(attack="stamp", target=0, artefact=str(named)))
    first, second, third = keys_while(named, options, ["trojan.npz", "trojan_mask.npy"])
    assert first != second == third


def test_a_key_depends_on_the_network_to_start_from_where_it_is_read(tmp_path):
    named = tmp_path / "start.pt"
    options = replace(OPTIONS, untrusted=UntrustedOptions(start=str(named)))
    assert len(set(keys_while(named, options, ["start.pt", "start.card.json"], "hid"))) == 3
    assert len(set(keys_while(named, options, ["start.pt"]))) == 1


def test_a_key_does_not_depend_on_how_it_is_computed():
    for options in (
        replace(OPTIONS, compute=ComputeOptions(batch_size=7)),
        replace(OPTIONS, workers=3, engine="ray", out="elsewhere", inputs=("b.pt",)),
        replace(OPTIONS, retry=("failed",), item_seconds=5.0),
        replace(OPTIONS, images=DataOptions(data="digits", data_dir="elsewhere")),
        replace(OPTIONS, method=("clp", "rnp"), rnp=replace(OPTIONS.rnp, unlearn=replace(OPTIONS.rnp.unlearn))),
        schema_for(SweepOptions, ("clp",))(images=OPTIONS.images, clp=OPTIONS.clp),
    ):
        assert key_of(options) == key_of()


def test_resolved_options_are_options_again():
    assert resolve(SCHEMA, to_plain(OPTIONS)) == OPTIONS


def test_a_preset_of_a_single_run_is_one_of_a_sweep():
    assert resolve(SweepOptions, {"method": "clp"}).method == ("clp",)


@pytest.mark.parametrize("write", ["row", "cleaned", "report"])
@pytest.mark.parametrize("evidence", ["unknown", "always"])
def test_evidence_may_be_gathered_whatever_is_kept(write, evidence):
    assert resolve(SweepOptions, {"write": write, "evidence": evidence}).evidence == evidence


@pytest.mark.parametrize(
    "values",
    [
        {"workers": 0},
        {"item_seconds": 0},
        {"retry": ["ok"]},
        {"seed": -1},
        {"sweep_images": -1},
        {"method": ["dih"]},
        {"method": []},
        {"method": ["clp", "clp"]},
    ],
)
def test_impossible_values(values):
    with pytest.raises(ConfigError):
        assert resolve(SweepOptions, values).methods
