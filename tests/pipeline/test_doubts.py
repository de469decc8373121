from types import SimpleNamespace
from typing import Any, cast

import pytest

from rnp_jax.evaluation.measure import Measured
from rnp_jax.evaluation.metrics import Metrics, Proportion
from rnp_jax.models import Architecture, Network
from rnp_jax.pipeline.doubts import Grounds, doubt_accuracy, find_doubt, read_stated, warn_of_known
from rnp_jax.torch_io.stated_accuracy import StatedAccuracy


def doubt(right: int, total: int, classes: int = 10, counts=None, stated=None) -> Grounds | None:
    counts = [total // classes] * classes if counts is None else counts
    found = None if stated is None else StatedAccuracy(stated, "acc")
    return doubt_accuracy(Proportion.of(right, total), counts, classes, found)


@pytest.mark.parametrize(
    ("right", "total", "classes", "doubted"),
    [
        (100, 1000, 10, True),  # guessing
        (30, 1000, 10, True),  # below it
        (190, 1000, 10, True),  # a tenth of the way from guessing to 1
        (191, 1000, 10, False),
        (9, 1000, 100, True),
        (200, 1000, 100, False),
        (540, 1000, 2, True),
        (700, 1000, 2, False),
        (4, 20, 10, True),  # 20 images cannot tell 20 % from guessing
        (20, 20, 10, False),
        (3, 3, 3, False),
    ],
)
def test_an_accuracy_at_chance_is_doubted(right, total, classes, doubted):
    found = doubt(right, total, classes)
    assert (found is not None) == doubted
    assert found is None or found.guessing == 1 / classes


def test_always_answering_the_largest_class_is_guessing():
    counts = [700, 200, 100]
    assert doubt(700, 1000, 3, counts) == Grounds(Proportion.of(700, 1000), 0.7, None)
    assert doubt(900, 1000, 3, counts) is None


def test_images_of_a_single_class_say_what_one_in_all_classes_says():
    assert doubt(95, 100, 10, [0, 0, 100]) is None
    assert doubt(5, 100, 10, [0, 0, 100]) is not None


@pytest.mark.parametrize(
    ("right", "total", "stated", "doubted"),
    [
        (799, 1000, 0.9, True),
        (801, 1000, 0.9, False),
        (980, 1000, 0.9, False),
        (7, 10, 0.8, False),
        (800, 1000, None, False),
    ],
)
def test_an_accuracy_ten_points_under_the_stated_one_is_doubted_beyond_noise(right, total, stated, doubted):
    found = doubt(right, total, stated=stated)
    assert (found is not None) == doubted
    if found is not None:
        assert found.guessing is None
        assert found.stated == StatedAccuracy(0.9, "acc")


def as_model(tree: Any, card: Any = None, extractor: Any = None) -> Any:
    network = Network(Architecture("resnet18", 10), (0.5, 0.5, 0.25), (0.25,) * 3)
    checkpoint = SimpleNamespace(tree=tree)
    return cast(Any, SimpleNamespace(
        network=network, checkpoint=checkpoint, state_dict=SimpleNamespace(location=("net",)), card=card,
        extractor=extractor,
    ))  # fmt: skip


def measured(right: int) -> Measured:
    by_class = tuple(Proportion.of(right // 10, 100) for _ in range(10))
    return Measured(Metrics(acc=Proportion.of(right, 1000)), cast(Any, None), by_class)


def test_the_sentence_gives_the_figures_and_everything_to_check():
    found = find_doubt(as_model({"net": {}, "acc": 98.4}), measured(100))
    assert found is not None
    assert found.at_chance
    assert found.sentence == (
        'ACC is 10.0% (8.3% to 12.0%) of 1,000 images, no better than guessing (10.0%), but the file (as "acc") states '
        "98.4%. If the network was trained to do better, it is not computed as it was trained, and no other figure "
        "counts. Check the normalisation (--normalization; now 0.5, 0.5, 0.25 / 0.25, 0.25, 0.25), the design "
        "(--architecture; now resnet18, with its strides, pooling and activation), the classes (their number and "
        "order; now 10), and the image size (--image-size or --image-shape; now 32x32)."
    )


def test_far_under_the_stated_accuracy_is_no_chance():
    found = find_doubt(as_model({"net": {}, "acc": 0.984}), measured(800))
    assert found is not None
    assert not found.at_chance
    assert found.sentence.startswith(
        'ACC is 80.0% (77.4% to 82.4%) of 1,000 images, but the file (as "acc") states 98.4%.'
    )


def test_a_card_goes_before_the_file():
    model = as_model({"net": {}, "acc": 0.3}, card=SimpleNamespace(acc=0.95))
    assert read_stated(model) == StatedAccuracy(0.95, "card")
    found = find_doubt(model, measured(800))
    assert found is not None
    assert "but the card states 95.0%" in found.sentence


def test_a_head_is_not_told_to_check_what_only_its_extractor_has():
    found = find_doubt(as_model({"net": {}}, extractor=object()), measured(100))
    assert found is not None
    assert "--normalization" not in found.sentence
    assert "image size" not in found.sentence


def test_a_good_accuracy_raises_no_doubt():
    assert find_doubt(as_model({"net": {}, "acc": 0.95}), measured(940)) is None


def test_an_accuracy_above_the_stated_one_beyond_noise_means_that_the_network_may_know_the_images():
    model = as_model({"net": {}, "acc": 91.8})
    (told,) = warn_of_known(model, measured(1000))
    assert told == (
        'ACC is 100.0% (99.6% to 100.0%) of 1,000 images, but the file (as "acc") states 91.8%. The network may have '
        "been trained on these images. Then ACC does not show what a defense costs on new ones: give --data images "
        "that it was not trained on."
    )
    assert warn_of_known(model, measured(930)) == ()  # 93.0 %, and its interval begins at 91.2 %
    assert warn_of_known(as_model({"net": {}}), measured(1000)) == ()
    (told,) = warn_of_known(as_model({"net": {}}, card=SimpleNamespace(acc=0.9)), measured(950))
    assert "but the card states 90.0%" in told
