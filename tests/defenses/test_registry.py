"""The records: complete, told apart, and true to what the methods do to a tiny network."""

import inspect
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import cache, reduce
from types import MappingProxyType, SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from matplotlib.markers import MarkerStyle

from rnp_jax import masks
from rnp_jax.defenses import (
    METHODS,
    AblConfig,
    AnpConfig,
    CbdConfig,
    Chooses,
    ClpConfig,
    DbdConfig,
    DbrConfig,
    Defended,
    DstConfig,
    EpConfig,
    FinePruningConfig,
    FinetuneConfig,
    FtConfig,
    FtSamConfig,
    HidConfig,
    HolderPruneConfig,
    IbauConfig,
    Method,
    NadConfig,
    Pairs,
    PruneConfig,
    RecoverConfig,
    RnpConfig,
    ThresholdConfig,
    UnlearnConfig,
    find_method,
)
from rnp_jax.defenses.activeness import ActiveTuneConfig
from rnp_jax.defenses.auto import AutoConfig
from rnp_jax.defenses.consistency import ConsistencyConfig
from rnp_jax.defenses.dbd import WarmupConfig
from rnp_jax.defenses.distil import DistilConfig
from rnp_jax.defenses.fitting import FitConfig
from rnp_jax.defenses.fmp import FmpConfig
from rnp_jax.defenses.fst import FstConfig
from rnp_jax.defenses.mcr import McrConfig
from rnp_jax.defenses.nc import NcConfig
from rnp_jax.defenses.nft import NftConfig
from rnp_jax.defenses.npd import NpdConfig
from rnp_jax.defenses.pam import PamConfig
from rnp_jax.defenses.registry import basis, order, sees_trigger, title
from rnp_jax.defenses.repair import RepairConfig
from rnp_jax.defenses.sau import SauConfig
from rnp_jax.defenses.tsbd import TsbdConfig
from rnp_jax.defenses.ulrl import UlrlConfig
from rnp_jax.defenses.unit import UnitConfig
from rnp_jax.errors import ConfigError, DefenseError
from rnp_jax.inversion import InversionConfig
from rnp_jax.models import Architecture, Network
from rnp_jax.models.bounds import apply_bounds, find_bounds
from rnp_jax.training.mixmatch import MixMatchConfig
from rnp_jax.training.simclr import SimclrConfig
from rnp_jax.training.supervised import TrainConfig
from rnp_jax.types import Batch

KEY = jax.random.key(0)
RNP = RnpConfig(
    UnlearnConfig(max_epochs=20, batch_size=16, learning_rate=0.03, stop_accuracy=0.4),
    RecoverConfig(epochs=10, batch_size=16, learning_rate=5.0),
    PruneConfig(accuracy_budget=1.0),
)
FT = FtConfig(finetune=FinetuneConfig(epochs=1, batch_size=16))
NUMBER, BUDGET = (HolderPruneConfig(threshold=ThresholdConfig(*rule)) for rule in (("number", 3.0, 2), ("budget",)))
HID = HidConfig(
    units=(6,),
    simclr=SimclrConfig(epochs=1, batch_size=16, projection=4),
    head=TrainConfig(epochs=2, batch_size=16),
    prune=NUMBER,
    mixmatch=MixMatchConfig(epochs=1, batch_size=8),
)
FIT = FitConfig(epochs=1, batch_size=16, learning_rate=0.01)
SEPARATION = ConsistencyConfig(0.3, 0.1, FIT, FIT)

QUICK: dict[str, Any] = {
    "none": None,
    "holder": NUMBER,
    "hid": HID,
    "abl": AblConfig(isolate=0.1, tuning=FIT, finetune=FIT, unlearn=FIT),
    "cbd": CbdConfig(biased=FIT, clean=FIT),
    "dbr": DbrConfig(SEPARATION, FIT),
    "ep": EpConfig(threshold=ThresholdConfig("number", number=2)),
    "dst": DstConfig(SEPARATION, HID.simclr, classifier=FIT),
    "dbd": DbdConfig(HID.simclr, warmup=WarmupConfig(epochs=1, batch_size=16), mixmatch=HID.mixmatch),
    "clp": ClpConfig(ThresholdConfig("number", number=2)),
    "anp": AnpConfig(iterations=20, batch_size=16, learning_rate=10.0, prune=PruneConfig("release", 1.0)),
    "fp": FinePruningConfig(finetune=FinetuneConfig(epochs=1, batch_size=16)),
    "ft": FT,
    "nad": NadConfig(teacher_epochs=1, epochs=1, batch_size=16, betas=(1.0, 1.0)),
    "ft_sam": FtSamConfig(epochs=1, batch_size=16),
    "ibau": IbauConfig(rounds=1, batch_size=16),
    "nc": NcConfig(
        InversionConfig(steps=10, batch_size=16, success=0.1),
        suspicious=1e-6,
        margin=1.0,
        starts=1,
        distil=DistilConfig(epochs=1, batch_size=16),
    ),
    "fst": FstConfig(finetune=FinetuneConfig(epochs=1, batch_size=16)),
    "nft": NftConfig(rounds=1, steps=2, batch_size=16),
    "ulrl": UlrlConfig(RNP.unlearn, relearn=FinetuneConfig(epochs=1, batch_size=16)),
    "tsbd": TsbdConfig(RNP.unlearn, finetune=ActiveTuneConfig(epochs=1, batch_size=16)),
    "sau": SauConfig(rounds=1, batch_size=16),
    "fmp": FmpConfig(divisor=4, finetune=FinetuneConfig(epochs=1, batch_size=16)),
    "mcr": McrConfig(finetune=FinetuneConfig(epochs=1, batch_size=16), epochs=1, batch_size=16, accuracy_budget=1.0),
    "npd": NpdConfig(epochs=1, batch_size=16),
    "pam": PamConfig(
        InversionConfig(steps=10, batch_size=16, success=0.1),
        suspicious=1e-6,
        margin=1.0,
        starts=1,
        rounds=2,
        epochs=1,
        batch_size=16,
    ),
    "unit": UnitConfig(steps=2, batch_size=16),
    "rnp": RNP,
    "auto": AutoConfig(
        InversionConfig(steps=10, batch_size=16),
        NcConfig(InversionConfig(steps=10, batch_size=16), distil=DistilConfig(epochs=1, batch_size=16)),
        RNP,
        RepairConfig(distil=DistilConfig(epochs=1, batch_size=16)),
    ),
    "random": NUMBER,
    "oracle": NUMBER,
}

CHOICES: list[tuple[str, Any, Chooses]] = [
    ("none", None, Chooses()),
    ("holder", NUMBER, Chooses(True, False)),
    ("holder", BUDGET, Chooses(True, True)),
    ("clp", ClpConfig(), Chooses(True, False)),
    ("clp", ClpConfig(ThresholdConfig("budget")), Chooses(True, True)),
    ("anp", QUICK["anp"], Chooses(True, True)),
    ("anp", replace(QUICK["anp"], prune=PruneConfig("release", number=3)), Chooses(True, False, 3)),
    ("fp", QUICK["fp"], Chooses(True, True)),
    ("ft", FT, Chooses()),
    ("ft", replace(FT, start="unlearned", rnp=RNP), Chooses()),
    ("ft", replace(FT, start="rnp", rnp=RNP), Chooses(True, True, None, "rnp.prune.number")),
    (
        "ft",
        replace(FT, start="rnp", rnp=replace(RNP, prune=PruneConfig(number=3))),
        Chooses(True, False, 3, "rnp.prune.number"),
    ),
    ("ft_sam", QUICK["ft_sam"], Chooses()),
    ("ibau", QUICK["ibau"], Chooses()),
    ("fst", QUICK["fst"], Chooses()),
    ("nft", QUICK["nft"], Chooses()),
    ("ulrl", QUICK["ulrl"], Chooses()),
    ("tsbd", QUICK["tsbd"], Chooses(by_holdout=True)),
    ("tsbd", replace(QUICK["tsbd"], share=0.5), Chooses()),
    ("sau", QUICK["sau"], Chooses()),
    ("fmp", QUICK["fmp"], Chooses()),
    ("mcr", QUICK["mcr"], Chooses(by_holdout=True)),
    ("mcr", replace(QUICK["mcr"], t=0.5), Chooses()),
    ("npd", QUICK["npd"], Chooses()),
    ("unit", QUICK["unit"], Chooses(by_holdout=True)),
    ("rnp", RNP, Chooses(True, True)),
    ("rnp", replace(RNP, prune=PruneConfig(number=3)), Chooses(True, False, 3)),
    ("rnp", replace(RNP, prune=PruneConfig("release", threshold=0.9)), Chooses(True, False)),
    ("auto", QUICK["auto"], Chooses(True, True)),
    ("random", NUMBER, Chooses(True, False)),
    ("random", BUDGET, Chooses(True, True)),
    ("oracle", NUMBER, Chooses(True, False)),
    ("oracle", BUDGET, Chooses(True, True)),
]


TRAINING = ("abl", "cbd", "dbr", "dst", "dbd")
"""The methods without masks and scores that learn from an untrusted set."""

WEIGHTS = (
    *("none", *TRAINING, "ft", "nad", "ft_sam", "ibau", "nc", "fst", "nft", "ulrl", "tsbd", "sau", "fmp", "mcr", "npd"),
    "pam",
)
"""The methods without masks and scores."""


@pytest.fixture(scope="module")
def maps() -> SimpleNamespace:
    """A network with feature maps, which attention needs, and a few grey images."""
    network = Network(Architecture("wanet_mnist", 3, 2, image_shape=(28, 28, 1)), (0.5,), (0.3,))
    rng = np.random.default_rng(0)

    def draw(count: int) -> Batch:
        labels = np.arange(count, dtype=np.int32) % 3
        return Batch(rng.integers(0, 256, (count, 28, 28, 1), np.uint8), labels)

    return SimpleNamespace(network=network, variables=network.init(KEY), data=draw(32), holdout=draw(12))


@pytest.fixture(scope="module")
def ran(features, maps) -> Callable[..., SimpleNamespace]:
    """The method run on a tiny network: what it was given, what came of it, and how often it augmented images."""

    @cache
    def run(name: str) -> SimpleNamespace:
        method, given, calls = (
            METHODS[name],
            maps if name in ("nad", "hid", "dst", "dbd", "nc", "pam") else features,
            [],
        )

        def augment(key: jax.Array, images: jax.Array) -> jax.Array:
            del key
            calls.append(images.shape)  # as often as it is compiled
            return images

        found = start(method, given, QUICK[name], augment=augment)
        return SimpleNamespace(method=method, given=given, found=found, augmented=len(calls))

    return run


def start(method: Method, given: SimpleNamespace, config: Any, **options: Any) -> Defended:
    """One run; the options are over what it is given by default."""
    images = np.asarray(given.data.images)
    changed = np.where(np.arange(images.size).reshape(images.shape) % 3 == 0, images.max(), images)
    pairs = Pairs(images, changed) if method.needs == "trigger" else None
    arguments = {"data": given.data, "holdout": given.holdout, "pairs": pairs, **options}
    return method(given.network, given.variables, arguments.pop("data"), KEY, config, **arguments)


def is_equal(one: Any, other: Any) -> bool:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


def flat(variables: Any) -> np.ndarray:
    return masks.flatten(masks.filters(variables["masks"]))


def frozen_throughout(config: Any) -> bool:
    """Whether a dataclass is frozen, and every dataclass in it."""
    inside = [getattr(config, each.name) for each in fields(config)]
    return config.__dataclass_params__.frozen and all(map(frozen_throughout, filter(is_dataclass, inside)))


def test_the_registry_cannot_be_changed_by_accident():
    assert isinstance(METHODS, MappingProxyType)
    assert list(METHODS) == [
        "none", "holder", "hid", "abl", "cbd", "dbr", "ep", "dst", "dbd", "clp", "anp", "fp", "ft", "nad", "ft_sam",
        "ibau", "nc", "fst", "nft", "ulrl", "tsbd", "sau", "fmp", "mcr", "npd", "pam", "unit", "rnp", "auto", "random",
        "oracle",
    ]  # fmt: skip
    with pytest.raises(AttributeError):
        METHODS["none"].title = "another"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("name", METHODS)
def test_one_signature(name):
    assert isinstance(METHODS[name], Method)
    found = inspect.signature(METHODS[name]).parameters
    named = ["holdout", "augment", "progress", "pairs", "keep"]
    assert list(found) == ["network", "variables", "data", "key", "config", *named]
    assert [each for each, value in found.items() if value.kind is value.KEYWORD_ONLY] == named


@pytest.mark.parametrize("name", METHODS)
def test_every_record_is_complete(name):
    method = METHODS[name]
    assert method.name == name
    assert method.title
    assert method.title != name
    assert re.fullmatch(r"[^\n]+[^\n.]", method.summary), "a line without a full stop"
    assert bool(method.basis) == (name != "none")
    assert re.fullmatch("#[0-9a-f]{6}", method.colour)
    assert MarkerStyle(method.marker).is_filled()
    assert method.needs in ("clean", "untrusted", "none", "trigger")
    assert method.changes in ("nothing", "filters", "weights", "both", "bounds")
    assert callable(method.run)


def test_no_two_methods_look_alike():
    looks = [(method.colour, method.marker) for method in METHODS.values()]
    assert len(set(looks)) == len(looks)
    for names in ([method.title for method in METHODS.values()], [method.summary for method in METHODS.values()]):
        assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", METHODS)
def test_defaults_are_frozen_and_of_the_group_that_is_read(name):
    method = METHODS[name]
    if method.defaults is None:
        assert (name, method.group) == ("none", "")
        return
    assert is_dataclass(method.defaults)
    assert frozen_throughout(method.defaults)
    assert type(method.defaults) is type(METHODS[method.group].defaults)
    assert hash(method.defaults) is not None
    assert type(QUICK[name]) is type(method.defaults)


def test_methods_are_in_the_order_of_a_comparison():
    names = ["zzz", "oracle", "rnp", "nad", "none", "random", "clp", "fp", "anp", "holder"]
    expected = ["none", "holder", "clp", "anp", "fp", "nad", "rnp", "zzz", "random", "oracle"]
    assert sorted(names, key=order) == expected
    assert sorted(METHODS, key=order) == list(METHODS)


def test_an_unknown_method_keeps_its_name_and_claims_nothing():
    assert (title("<b>"), basis("<b>"), sees_trigger("<b>")) == ("<b>", "", False)
    assert title("holder") == "Hölder"


def test_a_method_is_found_by_its_name():
    assert all(find_method(name) is method for name, method in METHODS.items())
    with pytest.raises(ConfigError, match="--method zzz: there is no such method; choose among none, holder, hid, abl"):
        find_method("zzz")


@pytest.mark.parametrize("method", ["rnp", "holder", "clp", "anp", "fp", "hid", "ep"])
def test_every_defense_says_what_it_rests_on_with_the_source(method: str):
    text = basis(method)
    assert text.startswith("The mask" if method in ("rnp", "anp") else "The score")
    assert text.endswith(").")
    assert "20" in text, "the source's year"


@pytest.mark.parametrize("method", WEIGHTS[1:])
def test_a_defense_without_masks_says_what_it_does_to_the_weights(method: str):
    text = basis(method)
    assert re.search(r" \(.*20\d\d\)\.$", text)
    assert not re.search("mask|score", text)
    assert title(method) != method


def test_the_oracle_is_named_as_no_defense():
    assert "no defender has" in METHODS["oracle"].basis
    assert [name for name in METHODS if sees_trigger(name)] == ["oracle"]
    assert [name for name, method in METHODS.items() if method.control] == ["none", "random", "oracle"]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_a_network_back(name, ran):
    run = ran(name)
    found, given = run.found, run.given
    assert isinstance(found, Defended)
    left = flat(found.variables)
    assert set(np.unique(left)) <= {0.0, 1.0}
    assert (left == 0).sum() == found.choice.pruned
    shapes = {layer: row.shape for layer, row in found.values.items()}
    of_masks = {layer: row.shape for layer, row in masks.filters(found.variables["masks"]).items()}
    assert shapes == (of_masks if found.prunes else {})
    assert (found.kind == "weights") == (name in WEIGHTS)
    assert (found.kind == "bounds") == (name == "unit")
    assert found.prunes == (found.kind in ("mask", "score"))
    assert (found.release is not None) == (name in ("rnp", "auto"))
    assert found.choice.ranking == ("path" if name in ("rnp", "auto") else name)  # auto prunes by the order of rnp
    assert (sum(found.timing.values()) > 0) == (name != "none")
    if not run.method.anew and run.method.changes != "bounds":
        assert jax.tree.structure(found.variables) == jax.tree.structure(given.variables)


@pytest.mark.parametrize("name", METHODS)
def test_it_changes_what_it_says(name, ran):
    run = ran(name)
    found, given, changes = run.found.variables, run.given.variables, run.method.changes
    if run.method.anew:
        assert changes == ("both" if run.found.prunes else "weights")
        return
    assert bool(find_bounds(found["masks"])) == (changes == "bounds")
    found = apply_bounds(found, {})
    weights, filters = ("params", "batch_stats"), ("masks",)
    for parts, moved in ((weights, ("weights", "both")), (filters, ("filters",))):
        same = is_equal(*({part: each[part] for part in parts} for each in (found, given)))
        if changes in moved:
            assert not same
        elif not (changes == "both" and parts == filters):  # its settings may prune
            assert same


@pytest.mark.parametrize("name", METHODS)
def test_it_augments_if_it_says_so(name, ran):
    run = ran(name)
    assert (run.augmented > 0) == run.method.augments


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.needs == "none"])
def test_a_method_that_needs_nothing_runs_without_images(name, ran):
    run = ran(name)
    alone = start(run.method, run.given, QUICK[name], data=None, holdout=None)
    assert is_equal(alone.variables, run.found.variables)
    assert is_equal(dict(alone.values), dict(run.found.values))


@pytest.mark.parametrize("name", METHODS)
def test_only_a_method_that_needs_an_untrusted_set_trains_a_network_of_its_own(name, ran):
    run = ran(name)
    anew = run.method.anew
    assert anew == (run.method.needs == "untrusted" and name not in ("dbr", "ep"))
    assert (run.found.network is not None) == anew
    assert (run.found.extractor is not None) == (name == "hid")
    assert (run.found.suspicion is not None) == (run.method.needs == "untrusted" and name != "ep")
    if anew:
        fresh = run.method(run.given.network, None, run.given.data, KEY, QUICK[name])
        assert fresh.network == run.found.network
        assert not is_equal(fresh.variables, run.found.variables)


def test_only_the_oracle_reads_the_trigger(ran):
    run = ran("oracle")
    with pytest.raises(DefenseError, match="the trigger is not known"):
        start(run.method, run.given, QUICK["oracle"], pairs=None)
    swapped = Pairs(run.given.data.images, run.given.data.images + 1)
    other = start(run.method, run.given, QUICK["oracle"], pairs=swapped)
    assert not is_equal(dict(other.values), dict(run.found.values))


@pytest.mark.parametrize(("name", "config", "expected"), CHOICES)
def test_it_chooses_as_it_says(name, config, expected, features):
    method = METHODS[name]
    assert method.chooses(config) == expected
    if expected.by_holdout:
        with pytest.raises(ConfigError, match="hold some out"):
            start(method, features, config, holdout=None)
        found = start(method, features, config)
        assert found.choice.holdout_acc_before is not None
    else:
        found = start(method, features, config, holdout=None)
        assert found.choice.holdout_acc_before is None
    assert found.prunes == expected.filters
    if expected.number is not None:
        assert found.choice.pruned == expected.number
        assert reduce(getattr, expected.option.split("."), config) == expected.number


def test_what_nad_chooses_is_what_rnp_does_before_it():
    pruned = replace(RNP, prune=PruneConfig(number=3))
    expected = Chooses(True, False, 3, "rnp.prune.number")
    for options in ({"start": "rnp"}, {"teacher": "pruned"}, {"start": "unlearned", "teacher": "pruned"}):
        assert METHODS["nad"].chooses(replace(QUICK["nad"], rnp=pruned, **options)) == expected
    for options in ({}, {"start": "unlearned", "rnp": pruned}, {"repel": 1.0, "rnp": pruned}):
        assert METHODS["nad"].chooses(replace(QUICK["nad"], **options)) == Chooses()


@pytest.mark.parametrize("name", [name for name, config, said in CHOICES if said.filters and config is QUICK[name]])
def test_a_method_that_prunes_needs_filters(name):
    network = Network(Architecture("mlp", 3, 0, (("fc", 3),), (1, 1, 6)), (0.0,) * 6, (1.0,) * 6)
    images = np.linspace(0, 1, 96, dtype=np.float32).reshape(16, 1, 1, 6)
    data = Batch(images, np.arange(16, dtype=np.int32) % 3)
    given = SimpleNamespace(network=network, variables=network.init(KEY), data=data, holdout=data)
    with pytest.raises(DefenseError):
        start(METHODS[name], given, QUICK[name])


@pytest.mark.parametrize("name", ["random", "oracle"])
def test_a_control_prunes_as_many_of_each_layer_as_holder_pruning(name, ran):
    reference, run = ran("holder"), ran(name)
    counts, expected = (
        {layer: int((np.asarray(mask) == 0).sum()) for layer, mask in masks.filters(each.variables["masks"]).items()}
        for each in (run.found, reference.found)
    )
    assert counts == expected == {"0": 2, "2": 2}
    assert set(run.found.timing) == {"score", "choose"}
    assert not is_equal(dict(run.found.values), dict(reference.found.values))
