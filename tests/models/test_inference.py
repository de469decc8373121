import pytest
import torch

from rnp_jax.errors import ArchitectureError
from rnp_jax.models.inference import check_fit, consumed, entries, infer_architecture
from rnp_jax.models.registry import Architecture
from rnp_jax.models.resnet import DESIGNS as RESNETS
from tests.networks import DEEP, build
from tests.oracle import models


def shapes_of(name: str = "resnet18", **sizes: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in build(name, **sizes).state_dict().items()}


@pytest.mark.parametrize(
    ("name", "width", "classes"),
    [(name, width, classes) for name in RESNETS for width, classes in [(4, 2), (64, 100)] if name not in DEEP]
    + [(name, 16, 10) for name in DEEP],
)
def test_name_width_and_classes_follow_from_the_shapes(name, width, classes):
    found = infer_architecture(shapes_of(name, width=width, num_classes=classes))
    assert (found.name, found.width, found.num_classes) == (name, width, classes)
    assert found.image_shape == (32, 32, 3)


def test_a_given_name_and_image_shape_are_used():
    assert infer_architecture(shapes_of("resnet34"), name="resnet34").name == "resnet34"
    found = infer_architecture(shapes_of(), image_shape=(28, 28, 3))
    assert found.image_shape == (28, 28, 3)


def test_an_mlp_of_features():
    found = infer_architecture({"0.weight": (64, 512), "0.bias": (64,), "2.weight": (9, 64), "2.bias": (9,)})
    assert (found.name, found.num_classes, found.image_shape) == ("mlp", 9, (1, 1, 512))
    assert found.layers == (("0", 64), ("2", 9))


def test_an_mlp_that_may_read_images_or_features_asks():
    shapes = {"fc1.weight": (8, 3072), "fc1.bias": (8,), "fc2.weight": (2, 8), "fc2.bias": (2,)}
    with pytest.raises(ArchitectureError, match=r"32,32,3 or 1,1,3072"):
        infer_architecture(shapes)
    for image_shape in [(32, 32, 3), (1, 1, 3072)]:
        assert infer_architecture(shapes, image_shape=image_shape).image_shape == image_shape
    with pytest.raises(ArchitectureError, match=r"\(28, 28, 1\) has 784 values, expected 3072"):
        infer_architecture(shapes, image_shape=(28, 28, 1))


def test_an_mlp_whose_layers_do_not_follow_one_another():
    shapes = {"b.weight": (2, 8), "b.bias": (2,), "a.weight": (8, 5), "a.bias": (8,)}
    with pytest.raises(ArchitectureError, match=r"a\.weight takes 5 inputs.*gives 2"):
        infer_architecture(shapes)


def test_unread_tensors_are_ignored_and_masks_are_checked():
    shapes = shapes_of()
    extra = {"bn1.neuron_noise": (4,), "bn1.neuron_noise_bias": (4,), "layer1.0.bn2.neuron_mask": (4,)}
    assert infer_architecture(shapes | extra) == infer_architecture(shapes)
    assert set(consumed(shapes | extra)) == {key for key in shapes if not key.endswith("num_batches_tracked")}
    with pytest.raises(ArchitectureError, match=r"bn1\.neuron_mask: \(5,\).*\(4,\)"):
        infer_architecture(shapes | {"bn1.neuron_mask": (5,)})
    with pytest.raises(ArchitectureError, match=r"linear\.neuron_mask"):
        infer_architecture(shapes | {"linear.neuron_mask": (5,)})


def test_missing_and_unexpected_keys_are_listed():
    shapes = shapes_of()
    del shapes["layer2.0.bn1.bias"], shapes["layer3.1.conv2.weight"]
    shapes["layer1.0.se.weight"] = (4, 4)
    with pytest.raises(ArchitectureError) as caught:
        infer_architecture(shapes)
    lines = str(caught.value).splitlines()
    assert lines[0] == "the keys are not those of resnet18 (- missing, + unexpected):"
    assert lines[1:] == [" - layer2.0.bn1.bias", " - layer3.1.conv2.weight", " + layer1.0.se.weight"]


def test_a_long_list_is_shortened():
    shapes = {key: shape for key, shape in shapes_of().items() if not key.endswith("running_var")}
    with pytest.raises(ArchitectureError, match=r"… and 8 more$"):
        infer_architecture(shapes)


def test_a_wrong_shape_names_its_key():
    shapes = shapes_of() | {"layer4.1.conv2.weight": (32, 31, 3, 3)}
    with pytest.raises(
        ArchitectureError, match=r"width 4:\n layer4\.1\.conv2\.weight: \(32, 31, 3, 3\), expected \(32, 32"
    ):
        infer_architecture(shapes)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, "none of the .* supported architectures has these tensors"),
        ({"features.0.weight": (64, 3, 3, 3)}, r"has these tensors.*\n \+ features\.0\.weight \(64, 3, 3, 3\)"),
        ({"conv1.weight": (4, 3, 3), "linear.weight": (2, 4)}, r"\+ conv1\.weight \(4, 3, 3\)"),
        ({"conv1.weight": (4, 3, 3, 3), "linear.weight": (2, 32)}, r"\+ linear\.weight \(2, 32\)"),
        ({"bias": (4,)}, "has these tensors"),
    ],
)
def test_tensors_of_no_supported_architecture(shapes, message):
    with pytest.raises(ArchitectureError, match=message):
        infer_architecture(shapes)


def test_an_unknown_depth_and_an_unknown_name():
    with torch.device("meta"):
        module = models.ResNet(models.BasicBlock, (1, 1, 1, 1), 4, 10, stem_norm=True)
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    with pytest.raises(ArchitectureError, match="has these tensors"):
        infer_architecture(shapes)
    with pytest.raises(ArchitectureError, match="unknown architecture 'resnet19'; did you mean resnet18 or"):
        infer_architecture(shapes, name="resnet19")
    with pytest.raises(ArchitectureError, match=r"vgg19 needs features\.0\.weight of 4 dimensions, but it is missing"):
        infer_architecture(shapes, name="vgg19")
    with pytest.raises(ArchitectureError, match=r"resnet34.*\n - layer1\.1"):
        infer_architecture(shapes, name="resnet34")


@pytest.mark.parametrize("name", ["mlp", "preactresnet18"])
def test_check_fit_accepts_what_was_inferred(name):
    shapes = consumed(shapes_of(name))
    check_fit(infer_architecture(shapes), shapes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conv1.weight": (0, 3, 3, 3)}, r"weights without values:\n conv1.weight: \(0, 3, 3, 3\)"),
        ({"linear.weight": (2**31, 512)}, "no network has such sizes: num_classes is 2147483648"),
        ({"conv1.weight": (2**31, 3, 3, 3)}, "no network has such sizes: width is 2147483648"),
        ({"conv1.weight": (64, 2**40, 3, 3)}, "no network has such sizes: image_shape is"),
    ],
)
def test_sizes_that_no_network_has(changes, message):
    with pytest.raises(ArchitectureError, match=message):
        infer_architecture(shapes_of() | changes, name="resnet18")


def test_an_mlp_of_very_many_layers_is_refused_at_once():
    """A small file can name one tensor twenty thousand times."""
    with pytest.raises(ArchitectureError, match="an mlp of 20000 layers"):
        infer_architecture({f"{i}.weight": (4, 4) for i in range(20_000)}, image_shape=(1, 1, 4))


@pytest.mark.parametrize("shape", [(-1, -1, 3), (0, 32, 3), (2**30, 32, 3), (1, 1, 3)])
def test_images_that_a_network_cannot_take(shape):
    shapes = {entry.key: entry.shape for entry in entries(Architecture("cifar_vgg11", 10, 4))}
    with pytest.raises(ArchitectureError, match=r"image_shape is|cifar_vgg11 cannot take images of \(1, 1, 3\)"):
        infer_architecture(shapes, image_shape=shape)
