"""The rows of a comparison, and the covariate that explains them."""

import numpy as np
import pytest
from rnp_jax.commands.comparing import ROWS, MethodOptions, compare_methods, measure_shift

from rnp_jax.attacks import TriggeredSet
from rnp_jax.config import ComputeOptions, DataOptions, DefenseSetOptions, SourceOptions, TriggerOptions
from rnp_jax.defenses import HolderPruneConfig, ThresholdConfig
from rnp_jax.errors import ConfigError
from rnp_jax.extractors import from_checkpoint
from rnp_jax.pipeline.opening import open_images, open_model, open_trigger
from rnp_jax.pipeline.run_log import RunLog
from rnp_jax.pipeline.sets import EvaluationSets, read_sets
from rnp_jax.types import Batch

TWO = MethodOptions(
    methods=("oracle", "clp", "holder", "random", "none"),
    holder=HolderPruneConfig(threshold=ThresholdConfig("number", number=2)),
)


def vectors(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array(rows, np.float32)[:, None, None]


def judged(clean: np.ndarray, labels: list[int], triggered: np.ndarray, indices: list[int]) -> EvaluationSets:
    rows = np.array(indices, np.int32)
    kept = np.array(labels, np.int32)
    return EvaluationSets(
        Batch(clean, kept), TriggeredSet(triggered, kept[rows], np.zeros(len(rows), np.int32), rows), 0
    )


@pytest.fixture(scope="module")
def model(head):
    return open_model(str(head), SourceOptions(), ComputeOptions())


def test_the_covariate_is_the_trigger_s_step_over_the_distance_of_the_class_means(model):
    clean = vectors((-1, 0), (1, 0), (3, 0), (5, 0))  # class means (0, 0) and (4, 0)
    moved = vectors((3, 3), (5, -3))
    assert measure_shift(model, judged(clean, [0, 0, 1, 1], moved, [2, 3])) == pytest.approx(3 / 4)
    three = vectors((0, 0), (3, 0), (0, 4))  # distances 3, 4 and 5
    assert measure_shift(model, judged(three, [0, 1, 2], vectors((3, 2)), [1])) == pytest.approx(2 / 4)


def test_where_there_is_no_distance_there_is_no_covariate(model):
    same = vectors((1, 1), (1, 1))
    assert measure_shift(model, judged(same, [0, 1], vectors((2, 2)), [1])) is None
    assert measure_shift(model, judged(same, [1, 1], vectors((2, 2)), [1])) is None
    assert measure_shift(model, EvaluationSets(Batch(same, np.array([0, 1])), None, None)) is None


def test_of_a_whole_network_the_features_are_what_its_last_layer_reads(small_victim):
    model = open_model(str(small_victim), SourceOptions(), ComputeOptions())
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 8, 8, 3), np.uint8)
    labels, rows = [0, 0, 1, 1, 2, 2], [2, 5]
    moved = images[rows] // 2
    extractor = from_checkpoint(small_victim)
    expected = measure_shift(
        open_model_with_features(model, extractor),
        judged(extractor(images)[:, None, None], labels, extractor(moved)[:, None, None], rows),
    )
    assert measure_shift(model, judged(images, labels, moved, rows)) == pytest.approx(expected, rel=1e-5)


def open_model_with_features(model, extractor):
    return type(model)(**{**vars(model), "extractor": extractor})


@pytest.fixture(scope="module")
def read(model):
    data, holdout, test = open_images(model, DataOptions(test_images=100), DefenseSetOptions(size=40, holdout=0.5))
    trigger = open_trigger(model, TriggerOptions(), test)
    data, holdout, sets = read_sets(model, data, holdout, test, trigger)
    return data, holdout, trigger, sets


@pytest.fixture(scope="module")
def rows(model, read):
    data, holdout, trigger, sets = read
    return {row.method: row for row in compare_methods(model, data, holdout, trigger, sets, TWO, RunLog(), 20)}


def test_rows_come_in_the_tables_order_and_describe_the_run(rows):
    assert list(rows) == ["none", "holder", "clp", "random", "oracle"]
    for row in rows.values():
        assert (row.checkpoint, row.attack, row.poison_rate, row.seed, row.mode) == (
            "head.pt", "badnets", 0.1, 0, "head",
        )  # fmt: skip
        assert (row.acc.total, row.asr.total, row.ra.total) == (100, 90, 90)


def test_what_was_done_to_the_model(rows):
    assert (rows["none"].pruned, rows["none"].units, rows["none"].der, rows["none"].timing) == (None, None, None, ())
    for method in ("holder", "random", "oracle"):
        assert (rows[method].pruned, rows[method].units) == (4, 28)  # two of each layer
    before = rows["none"]
    for method in ("holder", "clp", "random", "oracle"):
        after = rows[method]
        gain = max(0.0, before.asr.value - after.asr.value) - max(0.0, before.acc.value - after.acc.value)
        assert after.der == pytest.approx((gain + 1) / 2)
        assert sum(stage.seconds for stage in after.timing) > 0


def test_the_oracle_is_no_worse_than_chance(rows):
    assert rows["oracle"].asr.value <= rows["random"].asr.value


def test_controls_alone_prune_as_many_as_the_defense_that_they_stand_beside(model, read):
    data, holdout, trigger, sets = read
    options = MethodOptions(methods=("random",), holder=TWO.holder, seed=5)
    (row,) = compare_methods(model, data, holdout, trigger, sets, options, RunLog())
    assert (row.method, row.pruned) == ("random", 4)


def test_a_defense_that_cannot_work_leaves_the_others_their_rows(model, read):
    """One image does not vary, so nothing can be scored relative to its spread; and 99 filters of 16 are too many."""
    data, holdout, trigger, sets = read
    one = Batch(*(values[:1] for values in data))
    failing = MethodOptions(methods=("none", "holder", "clp", "random", "oracle"))
    rows = {row.method: row for row in compare_methods(model, one, holdout, trigger, sets, failing, RunLog())}
    impossible = MethodOptions(
        methods=("holder", "clp"), holder=HolderPruneConfig(threshold=ThresholdConfig("number", number=99))
    )
    more = {row.method: row for row in compare_methods(model, data, holdout, trigger, sets, impossible, RunLog())}
    for row in (rows["holder"], rows["random"], rows["oracle"], more["holder"]):
        assert (row.acc, row.asr, row.pruned, row.der) == (None, None, None, None)
    assert "all samples are equal" in rows["holder"].note
    assert rows["random"].note == rows["oracle"].note == rows["holder"].note
    assert "number 99" in more["holder"].note
    for row in (rows["none"], rows["clp"], more["clp"]):
        assert row.acc is not None
        assert row.asr is not None


def test_a_model_whose_trigger_is_not_known(model, read):
    data, holdout, _, sets = read
    unknown = EvaluationSets(sets.clean, None, None)
    options = MethodOptions(methods=("none", "oracle", "random"), holder=TWO.holder)
    rows = {row.method: row for row in compare_methods(model, data, holdout, None, unknown, options, RunLog())}
    assert rows["oracle"].note == "the trigger is not known"
    assert rows["oracle"].acc is None
    assert (rows["none"].attack, rows["none"].asr) == ("none", None)
    assert (rows["random"].pruned, rows["random"].der) == (4, None)


@pytest.mark.parametrize("methods", [(), ("clp", "clip"), ("",)])
def test_methods_that_do_not_exist(methods):
    with pytest.raises(ConfigError, match=f"--methods: .*choose among {', '.join(ROWS)}"):
        MethodOptions(methods=methods)


def test_a_method_named_twice_is_one_row(model, read):
    data, holdout, trigger, sets = read
    options = MethodOptions(methods=("none", "none"))
    assert len(compare_methods(model, data, holdout, trigger, sets, options, RunLog())) == 1
