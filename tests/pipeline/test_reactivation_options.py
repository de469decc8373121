"""What is tried where nothing is said, and what an attempt needs."""

import pytest

from rnp_jax.errors import ConfigError
from rnp_jax.pipeline.reactivation_options import ReactivationOptions
from rnp_jax.reactivation import REACTIVATIONS


def names(options: ReactivationOptions) -> list[str]:
    return [each.name for each in options.choose()]


def test_by_default_what_the_files_allow_and_does_not_take_long():
    assert names(ReactivationOptions("a.pt")) == ["ra"]
    assert names(ReactivationOptions("a.pt", original="b.pt")) == ["ra", "lmc"]
    assert names(ReactivationOptions("a.pt", original="b.pt", reference="c.pt")) == ["ra", "lmc", "bec"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"by": ("lmc",)}, "--by lmc: LMC needs --original; give that, or leave lmc out"),
        ({"by": ("bec",)}, "--by bec: BEC needs --original and --reference"),
        ({"by": ("ra", "ra")}, "--by ra ra: an attempt is named twice"),
        ({"by": ()}, "--by: no attempt is given; choose among ra"),
        ({"by": ("zzz",)}, "there is no such attempt"),
    ],
)
def test_what_cannot_be_tried(given, said):
    with pytest.raises(ConfigError, match=said):
        ReactivationOptions("a.pt", **given)


def test_the_written_settings_are_those_of_the_attempts_that_are_made():
    plain = ReactivationOptions("a.pt", by=("ra",)).plain()
    assert set(plain) & set(REACTIVATIONS) == {"ra"}
    assert plain["by"] == ["ra"]
