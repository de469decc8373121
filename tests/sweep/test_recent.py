from rnp_jax.sweep.recent import Recent


def test_what_was_used_longest_ago_gives_way():
    recent, made = Recent(2), []

    def get(key: str) -> str:
        return recent.get(key, lambda: made.append(key) or key)

    for key in ("a", "b", "a", "c", "a", "b"):
        assert get(key) == key
    assert made == ["a", "b", "c", "b"]
    assert (recent.peek("b"), recent.peek("c")) == ("b", None)
