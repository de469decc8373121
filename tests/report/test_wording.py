import pytest

from rnp_jax.report.schema import Metrics, Proportion
from rnp_jax.report.wording import change, flatten, interval, number, percent, rating, seconds

FEW = Proportion(value=0.88, low=0.802, high=0.93, count=88, total=100)
MANY = Proportion(value=0.83554, low=0.8186, high=0.8511, count=8355, total=10_000)


def test_shares_have_as_many_decimals_as_their_count_carries():
    assert percent(FEW) == "88.0%"
    assert percent(MANY) == "83.55%"
    assert percent(None) == "unknown"
    assert interval(FEW) == "80.2\N{EN DASH}93.0%"
    assert change(FEW, MANY) == "\N{MINUS SIGN}4.4"
    assert change(MANY, MANY) == "+0.00"
    assert change(None, FEW) == "unknown"


def test_unknown_numbers_say_so():
    assert rating(Metrics(acc=FEW)) == "unknown"
    assert rating(Metrics(acc=FEW, der=0.98449)) == "0.984"
    assert number(None) == "unknown"
    assert number(None, none="-") == "-"
    assert number(12345.678) == "1.235e+04"
    assert number(0.05) == "0.05"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 s"),
        (0.0412, "0.0412 s"),
        (11.26, "11.3 s"),
        (119.6, "120 s"),
        (120, "2 min 00 s"),
        (245.9, "4 min 05 s"),
        (3599.9, "59 min 59 s"),
        (3600, "1 h 00 min"),
        (3659.9, "1 h 00 min"),
        (87360, "24 h 16 min"),
        (360000, "100 h 00 min"),
    ],
)
def test_seconds(value: float, text: str):
    assert seconds(value) == text


def test_settings_are_flattened_to_dotted_rows():
    settings = {"a": {"b": {"c": 1, "d": None}, "e": [1, 2]}, "f": True, "g": {}, "h": []}
    rows = [("a.b.c", "1"), ("a.b.d", "none"), ("a.e", "1, 2"), ("f", "yes"), ("g", "none"), ("h", "none")]
    assert flatten(settings) == rows
