"""The tests that every module of a zoo's designs has, and those that some have."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType, ModuleType
from typing import ClassVar

import pytest
import torch

from rnp_jax import masks
from rnp_jax.models.registry import DESIGNS
from tests.oracle.zoos import PUBLISHED
from tests.parity import (
    check_defenses,
    check_parity,
    check_pruning,
    check_round_trip,
    check_sites,
    check_training_step,
    copy_of,
    load,
    randomize,
    recognised,
    shapes_of,
)
from tests.tiny_zoos import TINY, loaded, network_of, register


class Zoo:
    """Tiny networks of every kind in all, published ones by their shapes.

    Attributes:
      module: whose designs are tested.
      tiny: names of its tiny networks.
      tiny_and_slow: more of them, whose arithmetic is compared in the slow tests.
      parameters: numbers of published networks, as counted in the projects' own code: 10 classes, or 100 for
        weiaicunzai's.
    """

    module: ClassVar[ModuleType]
    tiny: ClassVar[tuple[str, ...]] = ()
    tiny_and_slow: ClassVar[tuple[str, ...]] = ()
    parameters: ClassVar[Mapping[str, int]] = MappingProxyType({})

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        slow = [pytest.param(name, marks=pytest.mark.slow) for name in self.tiny_and_slow]
        cases = {
            "compared": [*self.tiny, *slow],
            "ordered": [*self.tiny, *self.tiny_and_slow],
            "published": [*self.module.DESIGNS],
        }
        for argument in cases.keys() & {*metafunc.fixturenames}:
            metafunc.parametrize(argument, cases[argument])

    @pytest.fixture(autouse=True)
    def tiny_designs(self) -> Iterator[None]:
        with register():
            yield

    def test_a_tiny_network_computes_what_torch_computes(self, compared):
        module, network, variables = loaded(compared)
        assert network.architecture.name == f"tiny_{compared}"
        check_parity(module, network, variables)
        check_round_trip(copy_of(module), network, variables)
        assert {site.layer for site in network.sites} == {*masks.filters(variables["masks"])}

    def test_sites_are_in_the_order_in_which_torch_runs_them(self, ordered):
        tiny = TINY[ordered]
        module = tiny.build().eval()
        order: list[str] = []
        for layer, each in module.named_modules():
            each.register_forward_hook(lambda *_, layer=layer: order.append(layer))
        module(torch.zeros(1, 3, tiny.side, tiny.side))
        network = network_of(ordered, module.state_dict()[tiny.design.base or ""].shape[0])
        sites = [site.layer for site in network.sites]
        assert sites == sorted(sites, key=order.index)

    def test_every_published_network_is_recognised(self, published):
        with torch.device("meta"):
            module = PUBLISHED[published]()
        shapes = shapes_of(module)
        assert recognised(shapes) == [published]
        assert shapes[DESIGNS[published].base or ""][0] == DESIGNS[published].width
        if published in self.parameters:
            assert sum(leaf.numel() for leaf in module.parameters()) == self.parameters[published]


def check_feeding(name: str) -> None:
    """Sites name the convolutions whose outputs they read: one, several that are added, or none with a norm."""
    _, network, variables = loaded(name)
    check_sites(network, variables, pooled=tuple(site.layer for site in network.sites))


def check_export(name: str) -> None:
    """What is pruned is exported as it acts."""
    module, network, variables = loaded(name)
    check_pruning(copy_of(module), network, variables)
    check_training_step(network, variables)


def check_defended(name: str) -> None:
    """Defenses run on a tiny network.

    Only on some: where layers are so narrow that one is dead on random weights, relative radii have no scale.
    """
    check_defenses(*loaded(name)[1:])


def check_published(name: str) -> None:
    """A network of the published size computes what torch computes."""
    torch.manual_seed(0)
    module = randomize(PUBLISHED[name]())
    network, variables = load(module)
    check_parity(module, network, variables)
    check_round_trip(module, network, variables)
