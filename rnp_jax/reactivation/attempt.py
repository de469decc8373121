"""What an attempt to bring a backdoor back came to, as a part of a document."""

from pydantic import Field, model_validator

from rnp_jax.document import Known, Part, Text
from rnp_jax.evaluation.metrics import Proportion


class Outcome(Part):
    """How often the trigger works, and ACC where the attempt changed the network."""

    asr: Proportion
    acc: Proportion | None = None


class Control(Outcome):
    """An outcome to compare with, and what was done to get it."""

    name: Text


class Curve(Part):
    """A line of a figure: ``y`` over ``x``, with the ends of 95 % intervals where they are known.

    ``figure`` names the figure: ``epochs``, ``images``, ``path`` (shares along it) or ``barrier`` (losses along it).
    """

    figure: Text
    name: Text
    x: tuple[float, ...]
    y: tuple[Known, ...]
    low: tuple[Known, ...] = ()
    high: tuple[Known, ...] = ()

    @model_validator(mode="after")
    def _check_lengths(self) -> "Curve":
        if {len(self.y), len(self.low) or len(self.y), len(self.high) or len(self.y)} != {len(self.x)}:
            raise ValueError(f"curve {self.name}: {len(self.x)} x and {len(self.y)} y; expected as many of each")
        return self


class Attempt(Part):
    """One way of bringing the backdoor back, on the purified network and, as a floor, on a clean one.

    ``after`` is what the attempt reached on the purified network and ``floor`` on the clean reference; an attempt that
    only explains has neither. ``budget`` is what it was allowed, ``figures`` are numbers of its own.
    """

    name: Text
    after: Outcome | None = None
    floor: Outcome | None = None
    controls: tuple[Control, ...] = ()
    budget: dict[Text, Known] = Field(default_factory=dict)
    figures: dict[Text, Known] = Field(default_factory=dict)
    curves: tuple[Curve, ...] = ()


def draw_shares(figure: str, name: str, x: tuple[float, ...], shares: tuple[Proportion, ...]) -> Curve:
    """A curve of shares of images with their intervals."""
    return Curve(
        figure=figure,
        name=name,
        x=x,
        y=tuple(each.value for each in shares),
        low=tuple(each.low for each in shares),
        high=tuple(each.high for each in shares),
    )
