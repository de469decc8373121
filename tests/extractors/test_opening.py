"""An extractor by what lies at its path."""

import numpy as np
import pytest
import torch

from rnp_jax.data import NORMALIZATIONS
from rnp_jax.errors import CheckpointError
from rnp_jax.extractors import open_extractor
from tests.networks import build_random
from tests.oracle import vit


def test_a_file_is_a_checkpoint_and_a_folder_a_published_model(tmp_path):
    torch.save(build_random("resnet18").state_dict(), tmp_path / "model.pt")
    opened = open_extractor(str(tmp_path / "model.pt"), normalization=NORMALIZATIONS["half"])
    assert opened.provenance["kind"] == "checkpoint"
    opened = open_extractor(vit.save("vit", vit.build("vit"), tmp_path / "tower"))
    assert (opened.provenance["kind"], opened.dim) == ("folder", vit.WIDTH)


def test_what_is_neither_says_what_is_expected(tmp_path):
    with pytest.raises(CheckpointError, match=r"nothing is there; give a PyTorch checkpoint file, or a folder with"):
        open_extractor(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"no config\.json; expected config\.json"):
        open_extractor(tmp_path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(CheckpointError, match="a NumPy array"):
        open_extractor(tmp_path / "array.npy")
