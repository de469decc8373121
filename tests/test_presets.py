"""The files under configs/ fit their commands, and say what their first lines claim."""

import json
import re
import shlex
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

import pytest

from rnp_jax.attacks import describe
from rnp_jax.commands.arguments import parse
from rnp_jax.commands.table import COMMANDS
from rnp_jax.config import read_yaml, to_plain
from rnp_jax.defenses import METHODS, RecoverConfig, RnpConfig, UnlearnConfig
from rnp_jax.pipeline.trigger import make_attack
from rnp_jax.training.supervised import TrainConfig

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / "configs").rglob("*.yaml"))
RELEASE = ROOT / "configs" / "rnp_cifar10.yaml"


def by_path(path: Path) -> str:
    return str(path.relative_to(ROOT))


def command_of(preset: Path) -> list[str]:
    """The command line that the preset's comment gives; a backslash continues it on the next line."""
    text = re.sub(r" \\\n# +", " ", preset.read_text("utf-8"))
    (line,) = re.findall(r"^#   rnp-jax (.*)$", text, re.MULTILINE)
    return shlex.split(line)


def compare(values: dict, options) -> None:
    """Every value of the preset is in the resolved options, and every name of it is a field."""
    known = {each.name for each in fields(options)}
    for name, value in values.items():
        assert name in known
        found = getattr(options, name)
        if is_dataclass(found):
            compare(value, found)
        elif name == "constants":
            assert found == {constant: str(given) for constant, given in value.items()}
        else:
            assert (list(found) if isinstance(found, tuple) else found) == value, name


@pytest.mark.parametrize("preset", PRESETS, ids=by_path)
def test_the_command_in_each_preset_takes_all_of_it(preset, monkeypatch):
    monkeypatch.chdir(ROOT)
    name, *arguments = command_of(preset)
    assert name in COMMANDS
    assert (name == "attack") == ("attacks" in preset.parts)
    assert by_path(preset) in arguments
    compare(read_yaml(preset), parse(name, arguments)[1])


def test_the_release_s_settings_are_the_defaults_of_the_library():
    options = parse("defend", ["a.pt", "--config", str(RELEASE)])[1]
    values = read_yaml(RELEASE)
    assert options.rnp.unlearn == UnlearnConfig()
    assert options.rnp.recover == RecoverConfig()
    for phase, kind in (("unlearn", UnlearnConfig), ("recover", RecoverConfig)):
        told = {each.name for each in fields(kind)} - {"shuffle", "batch_norm", "relative"}
        assert set(values["rnp"][phase]) == told
    assert (options.augmentation.padding, options.augmentation.flip) == (4, True)
    assert (options.compute.precision, options.compute.placement) == ("float32", "bn_scale")


def test_the_release_s_choice_of_filters_is_the_preset_s():
    options = parse("defend", ["a.pt", "--config", str(RELEASE)])[1]
    assert (options.rnp.prune.ranking, options.rnp.prune.threshold) == ("release", 0.3)
    assert asdict(options.defense) == {"size": 500, "holdout": 0.0, "stratified": False, "seed": 0}


def test_the_defaults_differ_from_the_release_s_in_the_batch_in_when_unlearning_stops_and_in_the_choice():
    rnp, released = asdict(parse("defend", ["a.pt", "--method", "rnp"])[1].rnp), asdict(RnpConfig())
    assert rnp == asdict(METHODS["rnp"].defaults)
    assert rnp["unlearn"].pop("batch_size") == rnp["recover"].pop("batch_size") == 100
    assert (rnp["unlearn"].pop("stop_loss"), rnp.pop("retries")) == (2.0, 2)
    assert (released["unlearn"].pop("stop_loss"), released.pop("retries")) == (None, 0)
    assert (released["unlearn"].pop("batch_size"), released["recover"].pop("batch_size")) == (128, 128)
    assert (rnp["prune"].pop("spare_classes"), released["prune"].pop("spare_classes")) == (True, False)
    assert rnp == released


DIGITS = {path.stem: path for path in (ROOT / "configs" / "attacks" / "digits").glob("*.yaml")}
CARDS = {
    ROOT / "checkpoints" / "cifar10_badnets.card.json": ("badnets", ROOT / "configs/attacks/cifar10_w16.yaml"),
    ROOT / "checkpoints" / "digits_badnets.card.json": ("badnets", ROOT / "configs/attacks/digits.yaml"),
    **{ROOT / "checkpoints" / f"digits_{name}.card.json": (name, path) for name, path in DIGITS.items()},
}


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.name)
def test_the_bundled_checkpoints_were_made_by_the_presets(card):
    made, (name, preset) = json.loads(card.read_text()), CARDS[card]
    options = parse("attack", [name, "--out", "a.pt", "--config", str(preset)])[1]
    assert {**to_plain(TrainConfig()), **made["training"]} == to_plain(options.train)
    assert made["augmentation"] == to_plain(options.augmentation)
    assert (made["data"], made["seed"]) == (options.images.data, options.seed)
    assert (made["architecture"]["name"], made["architecture"]["width"]) == (options.model, options.width)
    attack = made["attack"]
    assert (attack["name"], attack["target"], attack["variant"]) == (name, options.target, options.poison.variant)
    assert attack["rate"] in (options.poison.rate, None)
    assert attack["constants"] == describe(make_attack(name, options.constants))["constants"]
