import pytest

from rnp_jax.pipeline import pace
from rnp_jax.pipeline.pace import Pace, tell_left


def test_the_first_step_counts_until_there_is_a_second_one(monkeypatch):
    now = 0.0
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    judge = Pace()
    assert judge.left(0, 10) is None
    now = 50.0
    assert judge.left(1, 10) == 450.0
    assert judge.rough
    now = 52.0
    assert judge.left(2, 10) == 16.0
    assert not judge.rough
    now = 60.0
    assert judge.left(6, 10) == 8.0
    assert judge.left(10, 10) == 0.0


def test_what_an_earlier_run_did_took_no_time(monkeypatch):
    now = 0.0
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    judge = Pace(done=900)
    now = 10.0
    assert judge.left(901, 1000) == 990.0


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        *((None, ""), (0.4, ""), (1.0, "1 s left"), (119.0, "119 s left"), (120.0, "2 min left")),
        *((7199.0, "120 min left"), (7200.0, "2 h left"), (500_000.0, "139 h left")),
    ],
)
def test_a_time_as_people_say_it(seconds, told):
    assert tell_left(seconds) == told
    assert tell_left(seconds, rough=True) == (told and f"at most {told}")
