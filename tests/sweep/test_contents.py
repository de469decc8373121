"""What items are judged on, by content: each data set and extractor is read once, or missed once."""

import os
from dataclasses import replace

import numpy as np
import pytest

from rnp_jax.config import DataOptions, SourceOptions
from rnp_jax.defenses import find_method
from rnp_jax.errors import UnusableDataError
from rnp_jax.pipeline.options import UntrustedOptions, schema_for
from rnp_jax.pipeline.request import Request
from rnp_jax.sweep import contents
from rnp_jax.sweep.contents import Contents, digest_small
from rnp_jax.sweep.options import SweepOptions

OPTIONS = schema_for(SweepOptions, ("clp", "hid"))()


def digest(options=OPTIONS, method="clp", carded=None, known=None) -> str:
    return (known or Contents()).digest(Request.of("a.pt", find_method(method), options), carded)


def test_whatever_is_read_and_no_more_is_in_the_digest(tmp_path):
    data, other = tmp_path / "data.npz", tmp_path / "other.npz"
    np.savez(data, images=np.zeros(2))
    np.savez(other, images=np.ones(2))
    named = replace(OPTIONS, images=DataOptions(data=str(data)))
    untrusted = replace(named, untrusted=UntrustedOptions(data=str(other)))
    extractor = replace(named, source=SourceOptions(extractor=str(other)))
    assert digest(named) == digest(carded=str(data)) == digest(named, carded="nowhere") == digest(untrusted)
    found = [digest(), digest(carded="digits"), digest(named), digest(untrusted, "hid"), digest(extractor)]
    assert len(set(found)) == len(found)
    np.savez(data, images=np.ones(3))
    assert digest(named) not in found


def test_each_is_read_once_or_missed_once(tmp_path, monkeypatch):
    taken, known = [], Contents()
    take = contents.digest_data
    monkeypatch.setattr(contents, "digest_data", lambda *asked: (taken.append(asked), take(*asked))[1])
    for _ in range(2):
        digest(carded="digits", known=known)
        with pytest.raises(UnusableDataError, match="no data set, file or folder"):
            digest(carded="nowhere.npz", known=known)
    assert taken == [("digits", None), ("nowhere.npz", None)]


def test_an_extractor_that_is_not_there():
    with pytest.raises(UnusableDataError, match="--extractor nowhere: nothing is there"):
        digest(replace(OPTIONS, source=SourceOptions(extractor="nowhere")))


def test_a_file_that_cannot_be_read_is_in_no_other_item_s_way(tmp_path):
    assert [digest_small(tmp_path / "none"), digest_small(tmp_path)] == [None, None]
    (tmp_path / "a.trigger.npz").write_bytes(b"trigger")
    first = digest_small(tmp_path / "a.trigger.npz")
    os.truncate(tmp_path / "a.trigger.npz", 2**40)
    assert "expected at most" in (digest_small(tmp_path / "a.trigger.npz") or "") != first
