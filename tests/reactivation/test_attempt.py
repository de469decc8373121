"""Lines of a figure, with as many values as there are places."""

import pytest
from pydantic import ValidationError

from rnp_jax.reactivation.attempt import Curve, draw_shares
from tests.report.examples import share


def test_shares_are_drawn_with_their_intervals():
    shares = (share(1, 10), share(9, 10))
    curve = draw_shares("images", "purified", (0.0, 5.0), shares)
    assert (curve.x, curve.y) == ((0.0, 5.0), (0.1, 0.9))
    assert curve.low == tuple(each.low for each in shares)
    assert curve.high == tuple(each.high for each in shares)


@pytest.mark.parametrize("lacking", [{"y": (1.0,)}, {"low": (0.5,)}, {"high": (0.5,)}])
def test_a_curve_has_a_value_at_every_place(lacking):
    values = {"figure": "path", "name": "ASR", "x": (0.0, 1.0), "y": (1.0, 1.0), **lacking}
    with pytest.raises(ValidationError, match=r"curve ASR: 2 x and \d y; expected as many of each"):
        Curve(**values)
