"""Errors can be told apart and caught together."""

from pathlib import Path

import pytest

from rnp_jax import errors


def test_every_error_is_an_rnp_error():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and kind.__module__ == errors.__name__]
    assert len(kinds) > 5
    others = [kind for kind in kinds if not issubclass(kind, errors.RnpError)]
    assert others == [errors.Interrupted]  # as Ctrl-C itself, which nothing takes for an error


def test_a_requirement_that_is_not_met_has_an_exit_status_of_its_own():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.RnpError)]
    assert {kind for kind in kinds if kind.status != 1} == {errors.RequirementError}
    assert errors.RequirementError.status == 3


def test_a_checkpoint_error_names_the_file_and_keeps_the_reason():
    with pytest.raises(errors.RnpError, match=r"^a/b\.pt: it is empty$") as caught:
        raise errors.CheckpointError(Path("a/b.pt"), "it is empty")
    assert isinstance(caught.value, errors.CheckpointError)
    assert caught.value.path == Path("a/b.pt")
    assert caught.value.reason == "it is empty"
