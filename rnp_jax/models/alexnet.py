"""AlexNet as torchvision publishes it (Krizhevsky 2014, "One Weird Trick for Parallelizing …"): that of one GPU."""

from collections.abc import Mapping
from types import MappingProxyType

from rnp_jax.models.design import Design
from rnp_jax.models.plain import ConvStep, Plan, plain_design

_PLAN = Plan(
    (
        ConvStep("features.0", 64, size=11, pad=2, pool="overlapping", stride=4),
        ConvStep("features.3", 192, size=5, pad=2, pool="overlapping"),
        ConvStep("features.6", 384),
        ConvStep("features.8", 256),
        ConvStep("features.10", 256, pool="overlapping"),
    ),
    hidden=(("classifier.1", 4096), ("classifier.4", 4096)),
    head="classifier.6",
    pooled=6,
)

DESIGNS: Mapping[str, Design] = MappingProxyType({"alexnet": plain_design(_PLAN, 224)})
