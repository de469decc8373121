"""What a file leaves open is settled on clean images: each model that it may be of is tried."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np
import pytest

from rnp_jax.checkpoints import save_variables
from rnp_jax.config import ComputeOptions, DataOptions, SourceOptions
from rnp_jax.data import NORMALIZATIONS, Dataset
from rnp_jax.errors import AmbiguousError, ConfigError, DataError, UnstatedError
from rnp_jax.evaluation.predict import Predictions
from rnp_jax.models import Architecture, Network
from rnp_jax.pipeline import candidates
from rnp_jax.pipeline.candidates import list_normalizations, settle_model
from rnp_jax.pipeline.opening import open_model

LABELS = np.arange(100, dtype=np.int32) % 10
NAMES = ("chenyaofo_mobilenet_v2", "mobilenet_v2")


def images(side: int) -> Dataset:
    return Dataset(np.zeros((100, side, side, 3), np.uint8), LABELS, tuple("0123456789"), "data")


@dataclass(frozen=True)
class Opened:
    """Stands for a model."""

    network: Network
    variables: Any = None
    assumptions: tuple[str, ...] = ()
    normalized_by: str = "given"


def open_one(source: SourceOptions) -> Opened:
    """A file that states neither its architecture nor its normalisation."""
    if source.architecture is None:
        raise AmbiguousError(NAMES)
    if source.normalization is None:
        raise UnstatedError("no card")
    normalization = NORMALIZATIONS[source.normalization]
    return Opened(Network(Architecture(source.architecture, 10), normalization.mean, normalization.std))


def settle(monkeypatch, source: SourceOptions, right: tuple[str, str] | None, side: int = 32) -> Opened:
    """The model that is chosen where one combination of architecture and normalisation is right on all images."""

    def predict(network, variables, batch):
        named = None if right is None else (right[0], NORMALIZATIONS[right[1]].mean)
        wrong = (network.architecture.name, network.mean) != named
        return Predictions((LABELS + wrong)[None] % 10, np.zeros((1, 100)))

    monkeypatch.setattr(candidates, "predict", predict)
    fit = lambda model, data: (model, data)  # noqa: E731
    return settle_model("m.pt", source, images(side), open_one, fit)  # pyright: ignore[reportArgumentType]


def test_architecture_and_normalisation_are_settled_together(monkeypatch):
    found = settle(monkeypatch, SourceOptions(), ("mobilenet_v2", "imagenet"))
    assert (found.network.architecture.name, found.network.mean) == ("mobilenet_v2", NORMALIZATIONS["imagenet"].mean)
    assert found.normalized_by == "images"
    (sentence,) = found.assumptions
    tried = 2 * len(list_normalizations(3))
    assert sentence.startswith(
        "The file does not say --architecture and --normalization: --architecture mobilenet_v2 "
        f"--normalization imagenet is the best of {tried} candidates, with 100.0% of 100 clean images"
    )


def test_what_is_given_is_not_tried(monkeypatch):
    found = settle(monkeypatch, SourceOptions(normalization="half"), ("chenyaofo_mobilenet_v2", "half"))
    assert (found.network.architecture.name, found.normalized_by) == ("chenyaofo_mobilenet_v2", "given")
    assert found.assumptions[0].startswith("The file does not say --architecture: ")


def test_designs_for_small_images_are_ruled_out_by_large_ones(monkeypatch):
    found = settle(monkeypatch, SourceOptions(normalization="half"), None, side=72)
    assert found.network.architecture.name == "mobilenet_v2"
    assert found.assumptions == (
        "Of all that the tensors fit, only the architecture mobilenet_v2 takes images of 72x72.",
    )


def test_the_options_are_asked_for_where_no_candidate_is_right(monkeypatch):
    with pytest.raises(ConfigError, match=r"m\.pt does not say --architecture and --normalization, and 100 clean"):
        settle(monkeypatch, SourceOptions(), None)


def test_images_that_fit_no_candidate_are_an_error():
    def misfit(model, data):
        raise DataError("too small")

    with pytest.raises(DataError, match="too small"):
        settle_model("m.pt", SourceOptions(), images(32), open_one, misfit)  # pyright: ignore[reportArgumentType]


def test_each_normalisation_is_tried_once():
    names = list_normalizations(3)
    assert "identity" in names
    assert "gtsrb" not in names  # the same
    assert len(set(names.values())) == len(names)
    assert "mnist" in list_normalizations(1)
    assert "imagenet" not in list_normalizations(1)


def test_without_images_the_options_are_asked_for(tmp_path):
    network = Network(Architecture("mobilenet_v2", 10, 8))
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape), jax.eval_shape(network.init, jax.random.key(0)))
    save_variables(tmp_path / "m.pt", network, variables)
    source = SourceOptions(normalization="half")
    with pytest.raises(
        AmbiguousError, match="fit chenyaofo_mobilenet_v2 or mobilenet_v2: choose one with --architecture"
    ):
        open_model(str(tmp_path / "m.pt"), source, ComputeOptions(), DataOptions())
    named = open_model(str(tmp_path / "m.pt"), replace(source, architecture=NAMES[0]), ComputeOptions())
    assert named.network.architecture.name == NAMES[0]
