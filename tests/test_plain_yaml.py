"""Plain YAML, and what is refused because it could grow, nest or mean something else."""

import pytest
import yaml

from rnp_jax.plain_yaml import PlainLoader


def read(text: str):
    return yaml.load(text, PlainLoader)


def test_plain_values_are_those_of_the_safe_loader():
    text = "{a: 1, b: [0x1f, -2.5, .inf, 1e3], c: 'x', d: true, e: null, 1: ~, f: '!', g: ! 3}"
    assert read(text) == yaml.safe_load(text)
    assert read("") is None
    assert read("'" + "9" * 200 + "'") == "9" * 200


@pytest.mark.parametrize("date", ["2024-01-31", "2024-99-99", "2001-12-14t21:59:43.10-05:00", "=", "<<"])
def test_a_date_is_a_text(date):
    assert read(f"a: {date}") == {"a": date}


def bomb() -> str:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(), "an alias; write its value out"),
        ("a: &x {b: 1}\nc: {<<: *x}", "an alias"),
        ("a: &x [*x]", "an alias"),
        ("a: !!binary aaaa", "a tag; write a plain value"),
        ("a: !!int ''", "a tag"),
        ("a: !!timestamp x", "a tag"),
        ("!!python/object/apply:os.system [ls]", "a tag"),
        ("? !!set {x}\n: 1", "a tag"),
        ("[" * 21 + "]" * 21, "more than 20 levels"),
        ("[" * 100_000, "more than 20 levels"),
        ("- " * 50_000, "more than 20 levels"),
        ("a: " + "1" * 5000, "a number of 5000 letters"),
        ("a: 0x" + "1" * 5000, "a number of 5002 letters"),
        ("a: -1." + "1" * 5000, "a number of 5003 letters"),
        ("? [a]\n: 1", "unhashable key"),
    ],
)
def test_what_is_not_plain_is_refused(text, message):
    with pytest.raises(yaml.YAMLError, match=message):
        read(text)


def test_what_looks_like_a_number_and_is_none():
    with pytest.raises(ValueError, match="invalid literal"):
        read("a: 0x_")
