"""What is asked of one checkpoint: a method with its settings, and what it is given."""

from dataclasses import dataclass, fields, replace
from typing import Any

from rnp_jax import masks
from rnp_jax.checkpoints import Model
from rnp_jax.config import to_plain
from rnp_jax.defenses import Method
from rnp_jax.errors import ConfigError
from rnp_jax.pipeline.options import RunOptions, is_read


@dataclass(frozen=True)
class Request:
    """One method for one checkpoint.

    Attributes:
      checkpoint: the file.
      method: its record.
      settings: the method's.
      options: what it is given; its own ``method`` and ``out`` are not read.
    """

    checkpoint: str
    method: Method
    settings: Any
    options: RunOptions

    @staticmethod
    def of(checkpoint: str, method: Method, options: RunOptions) -> "Request":
        """The request that options of one or more methods make of a checkpoint."""
        return Request(checkpoint, method, options.settings(method), options)

    def plain(self) -> dict[str, Any]:
        """Everything that decides the outcome, as a preset has it."""
        shared = [each.name for each in fields(RunOptions) if each.name not in ("method", "out")]
        read = {name: getattr(self.options, name) for name in shared if is_read(name, self.method)}
        group = {self.method.group: self.settings} if self.method.group else {}
        return {"checkpoint": self.checkpoint, "method": self.method.name, **to_plain({**read, **group})}

    def with_overrides(self, overrides: dict[str, Any]) -> "Request":
        """The request with the file's own source, images and trigger options, as a manifest gives them."""
        changed = {}
        for group in ("source", "images", "trigger"):
            values = getattr(self.options, group)
            own = {each.name for each in fields(values)} & set(overrides)
            frozen = {name: tuple(v) if isinstance(v := overrides[name], list) else v for name in own}
            changed[group] = replace(values, **frozen)
        return replace(self, options=replace(self.options, **changed))


def check_request(request: Request) -> None:
    """Says now what the choice of filters would say later.

    Raises:
      ConfigError: nothing is held out for a choice that needs it.
    """
    method = request.method
    by_holdout = method.needs != "untrusted" and method.chooses(request.settings).by_holdout
    if by_holdout and request.options.defense.holdout == 0:
        raise ConfigError(
            f"--defense.holdout 0 leaves no held-out images, which --method {method.name} needs to choose the number "
            "of pruned filters: hold some out (0.2), or give a number, a threshold or another rule if the method has "
            "one, such as --rnp.prune.number 20, --rnp.prune.ranking release --rnp.prune.threshold 0.3, "
            "--holder.threshold.rule mad, --tsbd.share 0.1, --mcr.t 0.5"
        )


def check_filters(model: Model, request: Request) -> None:
    """The model has filters at the placement, and as many as are to be pruned.

    Raises:
      ConfigError: it has not.
    """
    method = request.method
    if method.anew:  # it trains a network of its own
        return
    chosen = method.chooses(request.settings)
    total = sum(len(values) for values in masks.filters(model.variables["masks"]).values())
    name = model.network.architecture.name
    if total == 0 and chosen.filters:
        raise ConfigError(
            f"--placement {model.network.placement}: {name} has no filters there; use bn_scale (networks "
            "with batch norm), conv_output (networks with convolutions) or unit (mlp)"
        )
    if chosen.number is not None and chosen.number > total:
        raise ConfigError(f"--{method.group}.{chosen.option} {chosen.number}: {name} has {total} filters")
