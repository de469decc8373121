"""The oracle against first principles, and against a recorded run of the released functions."""

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from tests.oracle import models, rnp
from tests.oracle.tiny import THRESHOLDS, tiny_golden


def tiny_batches(count: int = 8, size: int = 4) -> rnp.Batches:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    return rnp.make_batches(images, np.arange(count) % 2, size)


def tiny_model() -> models.ResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.resnet(18, width=4, num_classes=2)


def test_batches_are_normalised_in_order_and_the_last_is_short():
    images = np.zeros((5, 2, 2, 3), np.uint8)
    images[0, 0, 1] = 255
    batches = rnp.make_batches(images, np.arange(5), 2)
    assert [labels.tolist() for _, labels in batches] == [[0, 1], [2, 3], [4]]
    pixels = batches[0][0]
    white = [(1 - mean) / std for mean, std in zip(rnp.MEAN, rnp.STD, strict=True)]
    torch.testing.assert_close(pixels[0, :, 0, 1], torch.tensor(white))
    torch.testing.assert_close(pixels[0, :, 1, 0], -torch.tensor(rnp.MEAN) / torch.tensor(rnp.STD))


def test_unlearning_ascends_with_coupled_decay_and_momentum():
    """Two steps by hand: v = 0.9 v + (-g + wd * theta); theta -= lr * v."""
    features = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
    labels = torch.tensor([0, 1])
    model = nn.Linear(2, 2, bias=False).double()
    nn.init.eye_(model.weight)
    theta, velocity = model.weight.detach().clone(), torch.zeros(2, 2, dtype=torch.float64)
    for _ in range(2):
        residual = torch.softmax(features @ theta.T, 1) - nn.functional.one_hot(labels)
        gradient = residual.T @ features / 2
        velocity = 0.9 * velocity - gradient + 5e-4 * theta
        theta = theta - 0.01 * velocity
    records = list(rnp.unlearn(model, [(features, labels)], stop_accuracy=-1, max_epochs=2))
    torch.testing.assert_close(model.weight.detach(), theta)
    assert records[1].loss > records[0].loss


def test_learning_rate_falls_after_the_milestones():
    records = rnp.unlearn(tiny_model(), tiny_batches(), milestones=(1, 2), stop_accuracy=-1, max_epochs=3)
    assert [record.lr for record in records] == pytest.approx([1e-2, 1e-3, 1e-4])


def test_unlearning_stops_after_the_first_epoch_at_the_stop_accuracy():
    accuracies = [record.accuracy for record in rnp.unlearn(tiny_model(), tiny_batches(), stop_accuracy=-1)]
    assert len(accuracies) == 21
    stop = accuracies[0] - 1 / 16
    expected = next(index for index, accuracy in enumerate(accuracies) if accuracy <= stop) + 1
    assert 1 < expected < 21
    assert len(list(rnp.unlearn(tiny_model(), tiny_batches(), stop_accuracy=stop))) == expected


def test_recovery_moves_masks_and_running_statistics_alone():
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    record = list(rnp.recover(model, tiny_batches(), lr=50.0, epochs=2))[-1]
    after = model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "running" in name or "tracked" in name}
    masks = torch.cat(list(record.masks.values()))
    assert masks.min() == 0
    assert masks.max() == 1


def test_recovery_first_step_is_a_clamped_gradient_step():
    model, batches = tiny_model().double(), [(x.double(), y) for x, y in tiny_batches(size=8)]
    model.train()
    masks = {name: torch.ones_like(norm.weight, requires_grad=True) for name, norm in models.batch_norms(model).items()}
    models.set_masks(model, masks)
    (images, labels) = batches[0]
    gradients = torch.autograd.grad(nn.functional.cross_entropy(model(images), labels), list(masks.values()))
    (record,) = rnp.recover(model, batches, lr=0.2, alpha=0.3, epochs=1)
    expected = [(1 - 0.2 * 0.3 * gradient).clamp(0, 1) for gradient in gradients]
    torch.testing.assert_close(list(record.masks.values()), expected)


def test_sweep_prunes_at_equality_after_rounding_and_leaves_the_model_alone():
    model, batches = tiny_model(), tiny_batches()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    masks = {name: torch.ones_like(norm.weight) for name, norm in models.batch_norms(model).items()}
    masks["bn1"] = torch.tensor([0.0, 0.60004, 0.60006, 1.0])
    counts = [row.pruned for row in rnp.prune_sweep(model, masks, [0.0, 0.6, 1.0], batches, batches)]
    assert counts == [1, 2, sum(len(mask) for mask in masks.values())]
    exact = [row.pruned for row in rnp.prune_sweep(model, masks, [0.6], batches, batches, decimals=None)]
    assert exact == [1]
    assert all(norm.mask is None for norm in models.batch_norms(model).values())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_sweep_equals_zeroing_the_scale():
    model, batches = tiny_model(), tiny_batches()
    masks = {name: torch.ones_like(norm.weight) for name, norm in models.batch_norms(model).items()}
    masks["layer4.1.bn2"][::2] = 0
    (row,) = rnp.prune_sweep(model, masks, [0.0], batches, batches)
    with torch.no_grad():
        models.batch_norms(model)["layer4.1.bn2"].weight[::2] = 0
    assert row.clean == rnp.evaluate(model, batches)


def test_tiny_golden_is_a_backdoored_network_that_unlearns_and_recovers():
    golden = tiny_golden()
    assert golden.images.shape == (96, 32, 32, 3)
    assert not golden.images.flags.writeable
    assert golden.test_accuracy[0] > 0.8
    assert golden.attack_success[0] > 0.9
    assert (np.diff(golden.unlearn_loss) > 0).all()
    assert (np.diff(golden.recover_loss) < 0).all()
    assert golden.pruned.tolist() == sorted(golden.pruned)
    assert golden.attack_success[THRESHOLDS.index(0.85)] < golden.attack_success[0] / 2
    kept = [name for name in golden.unlearned if "running" not in name and "tracked" not in name]
    for name in kept:
        np.testing.assert_array_equal(golden.recovered[name], golden.unlearned[name])


def test_tiny_golden_is_deterministic():
    first, second = tiny_golden(), tiny_golden.__wrapped__()
    for name, mask in first.masks.items():
        np.testing.assert_array_equal(mask, second.masks[name])


@dataclass
class Recorded:
    """The released functions' run: arrays by name, and the rows of its log."""

    arrays: dict[str, np.ndarray]
    log: dict
    checkpoint: dict[str, torch.Tensor]

    def model(self, prefix: str | None = None) -> models.ResNet:
        """The checkpoint's network, or the one whose weights the run saved under this prefix."""
        model = models.resnet(18, width=16)
        state = self.checkpoint if prefix is None else self.state(prefix)
        model.load_state_dict(state)
        return model

    def state(self, prefix: str) -> dict[str, torch.Tensor]:
        return {
            key.removeprefix(prefix): torch.tensor(value)
            for key, value in self.arrays.items()
            if key.startswith(prefix)
        }

    def batches(self, name: str, size: int, limit: int | None = None) -> rnp.Batches:
        return rnp.make_batches(self.arrays[f"x_{name}"][:limit], self.arrays[f"y_{name}"][:limit], size)

    def masks(self, epoch: int) -> rnp.Masks:
        norms = models.batch_norms(self.model())
        assert [f"{name}.neuron_mask" for name in norms] == self.arrays["mask_names"].tolist()
        flat = torch.tensor(self.arrays["masks_per_epoch"][epoch])
        return dict(zip(norms, flat.split([len(norm.weight) for norm in norms.values()]), strict=True))


@pytest.fixture(scope="module")
def recorded(shared) -> Recorded:
    content = torch.load(shared / "torch_checkpoints" / "badnets_resnet18w16.tar", weights_only=True)
    with np.load(shared / "golden" / "badnets.npz") as arrays:
        log = json.loads((shared / "golden" / "badnets.json").read_text())
        return Recorded(dict(arrays), log, content["state_dict"])


def test_logits_of_the_recorded_checkpoint(recorded):
    model = recorded.model().eval()
    with torch.no_grad():
        logits = model(recorded.batches("test", 256, 256)[0][0])
    np.testing.assert_allclose(logits, recorded.arrays["logits_first256"], rtol=0, atol=2e-5)


def test_recorded_first_unlearning_epoch(recorded):
    """Log columns: epoch, lr, train CE and accuracy, triggered CE and accuracy, clean CE and accuracy, seconds."""
    model = recorded.model()
    record = next(rnp.unlearn(model, recorded.batches("defense", 128)))
    assert record == pytest.approx(tuple(recorded.log["unlearn"][0][:4]), rel=2e-5)
    for name, expected in recorded.state("unlearn_epoch0/").items():
        actual = model.state_dict()[name]
        np.testing.assert_allclose(
            actual, expected, rtol=0, atol=2e-4 * max(1, float(expected.abs().max())), err_msg=name
        )


def test_recorded_first_recovery_epochs(recorded):
    """Log columns: epoch from 1, train alpha * CE, train accuracy, triggered loss and accuracy, clean ones, seconds."""
    steps = rnp.recover(recorded.model("unlearned/"), recorded.batches("defense", 128), epochs=2)
    for record, row, tolerance in zip(steps, recorded.log["recover"], (1e-4, 5e-4), strict=False):
        assert (record.epoch + 1, record.loss, record.accuracy) == pytest.approx(tuple(row[:3]), rel=1e-4)
        for name, expected in recorded.masks(record.epoch).items():
            np.testing.assert_allclose(record.masks[name], expected, rtol=0, atol=tolerance, err_msg=name)


def test_recorded_pruning_counts(recorded):
    """All 19 counts; at 0.60 they differ by one without the text file's four decimals."""
    masks = recorded.masks(-1)
    counts = [row.pruned for row in rnp.prune_sweep(recorded.model(), masks, [0.05 * k for k in range(19)], *no_test())]
    assert counts == [row[0] for row in recorded.log["prune"]]


def no_test() -> tuple[rnp.Batches, rnp.Batches]:
    """One image is enough where only the counts are looked at."""
    one = rnp.make_batches(np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1), 1)
    return one, one


@pytest.mark.slow
def test_recorded_run_from_the_checkpoint_on(recorded):
    """Ascent is chaotic: the histories agree closely, the weights at its end to some 1e-3 of each tensor's maximum."""
    model, batches = recorded.model(), recorded.batches("defense", 128)
    records = list(rnp.unlearn(model, batches))
    assert len(records) == len(recorded.log["unlearn"]) == 6
    for record, row in zip(records, recorded.log["unlearn"], strict=True):
        assert record == pytest.approx(tuple(row[:4]), rel=1e-2)
    for name, expected in recorded.state("unlearned/").items():
        error = (model.state_dict()[name] - expected).abs().max() / max(1e-9, expected.abs().max())
        assert error < 2e-2, name
    for record, row in zip(rnp.recover(model, batches, epochs=3), recorded.log["recover"], strict=False):
        assert record.loss == pytest.approx(row[1], rel=2e-2)
        assert record.accuracy == pytest.approx(row[2], abs=6 / 500)


@pytest.mark.slow
def test_recorded_recovery_to_its_end(recorded):
    *_, last = rnp.recover(recorded.model("unlearned/"), recorded.batches("defense", 128))
    ours, theirs = torch.cat(list(last.masks.values())), torch.cat(list(recorded.masks(-1).values()))
    assert (ours - theirs).abs().max() < 5e-2
    assert ((ours == 0) == (theirs == 0)).double().mean() > 0.99


@pytest.mark.slow
def test_recorded_sweep_rows(recorded):
    """Log columns: pruned, layer and index of the next filter, threshold, triggered CE and accuracy, clean ones."""
    # Evaluated in batches of 500, as the mean of the batches' losses shows.
    test, triggered = recorded.batches("test", 500), recorded.batches("triggered", 500)
    before = (*rnp.evaluate(recorded.model(), triggered), *rnp.evaluate(recorded.model(), test))
    assert before == pytest.approx(tuple(recorded.log["before"]), rel=1e-5, abs=1e-6)
    rows = [recorded.log["prune"][index] for index in (0, 4, 18)]
    sweep = rnp.prune_sweep(recorded.model(), recorded.masks(-1), [row[3] for row in rows], test, triggered)
    for ours, row in zip(sweep, rows, strict=True):
        assert (*ours.triggered, *ours.clean) == pytest.approx(tuple(row[4:]), abs=1e-4)
