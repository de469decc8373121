import pytest
import torch
from torch import nn

from tests.oracle import models


@pytest.mark.parametrize(
    ("depth", "parameters", "masks"),
    [
        (18, 11_173_962, 4_800),  # 4,800 masks: the RNP release's own count
        (34, 21_282_122, 8_512),
        (50, 23_520_842, 26_560),
        (101, 42_512_970, 52_672),
        (152, 58_156_618, 75_712),
    ],
)
def test_published_resnet_sizes(depth, parameters, masks):
    with torch.device("meta"):
        model = models.resnet(depth)
    assert sum(each.numel() for each in model.parameters()) == parameters
    assert sum(len(norm.weight) for norm in models.batch_norms(model).values()) == masks


def test_published_preact_resnet18_size_and_keys():
    with torch.device("meta"):
        model = models.preact_resnet18()
    assert sum(each.numel() for each in model.parameters()) == 11_171_146
    keys = list(model.state_dict())
    assert keys[:2] == ["conv1.weight", "layer1.0.bn1.weight"]
    assert [key for key in keys if "shortcut" in key] == [f"layer{stage}.0.shortcut.0.weight" for stage in (2, 3, 4)]
    assert keys[-2:] == ["linear.weight", "linear.bias"]


def test_bottleneck_keys():
    with torch.device("meta"):
        keys = models.resnet(50).state_dict()
    block = [key.removeprefix("layer2.0.") for key in keys if key.startswith("layer2.0.") and key.endswith(".weight")]
    assert block == [
        *(f"{name}{index}.weight" for index in (1, 2, 3) for name in ("conv", "bn")),
        "shortcut.0.weight",
        "shortcut.1.weight",
    ]
    assert keys["layer1.0.shortcut.0.weight"].shape == (256, 64, 1, 1)


@pytest.mark.parametrize("build", [models.resnet, models.preact_resnet18])
def test_logits_shape(build):
    model = build(width=4, num_classes=7).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


def test_mlp_keys_and_last_layer_is_linear():
    model = models.mlp([5, 4, 3])
    assert list(model.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    model.load_state_dict(model.state_dict() | {"2.weight": torch.zeros(3, 4), "2.bias": torch.full((3,), -9.0)})
    torch.testing.assert_close(model(torch.ones(2, 5)), torch.full((2, 3), -9.0))


def random_norms() -> tuple[models.MaskedBatchNorm2d, nn.BatchNorm2d, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    masked, plain = models.MaskedBatchNorm2d(3), nn.BatchNorm2d(3)
    for parameter in masked.parameters():
        nn.init.normal_(parameter, generator=generator)
    plain.load_state_dict(masked.state_dict())
    return masked, plain, torch.randn(4, 3, 5, 5, generator=generator)


@pytest.mark.parametrize("mask", [None, torch.ones(3)])
def test_masked_norm_without_effect_is_torch_batch_norm(mask):
    masked, plain, x = random_norms()
    masked.mask = mask
    torch.testing.assert_close(masked(x), plain(x), rtol=0, atol=0)
    torch.testing.assert_close(masked.state_dict(), plain.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(masked.eval()(x), plain.eval()(x), rtol=0, atol=0)


def test_mask_scales_the_normalised_input_and_keeps_the_bias():
    masked, plain, x = random_norms()
    masked.mask = torch.tensor([0.0, 0.5, 1.0])
    y, bias = plain(x), plain.bias[:, None, None]
    expected = masked.mask[:, None, None] * (y - bias) + bias
    torch.testing.assert_close(masked(x), expected)
    assert (masked(x)[:, 0] == plain.bias[0]).all()


def test_set_masks_names_a_missing_layer():
    model = models.resnet(18, width=4)
    with pytest.raises(KeyError, match="bn1"):
        models.set_masks(model, {})


def test_keys_are_those_of_a_released_checkpoint(shared):
    path = shared / "torch_checkpoints" / "badnets_resnet18w16.tar"
    state = torch.load(path, weights_only=True)["state_dict"]
    model = models.resnet(18, width=16)
    assert list(model.state_dict()) == list(state)
    model.load_state_dict(state)
