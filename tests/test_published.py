"""Checkpoints as their authors published them, with their triggers, on the whole test set of CIFAR-10."""

import json
from pathlib import Path

import pytest

from rnp_jax.cli import main

SQUARE = ["badnets", "--constants", "variant", "square", "size", "4"]
WATERMARK = ["stamp", "--artefact", "ibau_trojan_wm.png"]
L0 = ["stamp", "--constants", "variant", "paste", "--artefact", "ibau_l0_inv.png"]
PUBLISHED = {  # target, attack, and ACC and ASR as measured in torch on a part of the test set
    "nad_wrn16_1_s_net.tar": (5, ["badnets"], 0.8505, 1.0),
    "abl_wrn16_1_grid_target0.tar": (0, ["badnets"], 0.836, 1.0),
    "ibau_badnets_8_02.pth": (8, SQUARE, 0.85, 0.982),
    "ibau_trojan_wm_2_02.pth": (2, WATERMARK, 0.84, 0.999),
    "ibau_l0_inv_0_02.pth": (0, L0, 0.855, 1.0),
}
STATED = {  # by the file itself: NAD's is the accuracy on the other classes
    "nad_wrn16_1_s_net.tar": ("acc_without_target", 0.856556),
    "ibau_badnets_8_02.pth": ("acc", 0.8446),
    "ibau_trojan_wm_2_02.pth": ("acc", 0.8502),
    "ibau_l0_inv_0_02.pth": ("acc", 0.8495),
}


def evaluate(path: Path, data: Path, out: Path, options: list[str]) -> dict:
    """The figures on the whole test set."""
    arguments = ["--data", "cifar10", "--data-dir", str(data), "--out", str(out)]
    assert main(["evaluate", str(path), *arguments, *options]) == 0
    metrics = json.loads(out.read_text())["metrics"]
    assert metrics["acc"]["total"] == 10_000
    return metrics


@pytest.mark.slow
def test_a_published_clean_network_is_as_its_file_says(shared, tmp_path):
    path, data = shared / "real_checkpoints" / "akamaster_resnet20.th", shared / "tensorflow_datasets"
    if not path.is_file() or not (data / "cifar10").is_dir():
        pytest.skip("no published checkpoints, or no CIFAR-10, beside the checkout")
    metrics = evaluate(path, data, tmp_path / "figures.json", ["--normalization", "imagenet"])
    assert metrics["acc"]["value"] == pytest.approx(0.9178, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_backdoor_is_as_its_authors_and_torch_found_it(shared, tmp_path, name):
    folder, data = shared / "real_checkpoints", shared / "tensorflow_datasets"
    if not (folder / name).is_file() or not (data / "cifar10").is_dir():
        pytest.skip("no published checkpoints, or no CIFAR-10, beside the checkout")
    target, attack, acc, asr = PUBLISHED[name]
    trigger = [str(folder / part) if part.endswith(".png") else part for part in attack]
    options = ["--normalization", "identity", "--target", str(target), "--attack", *trigger]
    metrics = evaluate(folder / name, data, tmp_path / "figures.json", options)
    assert metrics["acc"]["value"] == pytest.approx(acc, abs=0.015)
    assert metrics["asr"]["value"] == pytest.approx(asr, abs=0.015)
    if name in STATED:
        metric, value = STATED[name]
        assert metrics[metric]["value"] == pytest.approx(value, abs=3e-4)
