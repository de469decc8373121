import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from rnp_jax.checkpoints import load_model, save_variables
from rnp_jax.commands.sweep_job import SweepJob
from rnp_jax.commands.sweep_options import SweepOptions
from rnp_jax.config import DataOptions, DefenseSetOptions, SourceOptions
from rnp_jax.data import NORMALIZATIONS
from rnp_jax.defenses import ClpConfig, RecoverConfig, RnpConfig, ThresholdConfig, UnlearnConfig
from rnp_jax.errors import CheckpointError, ConfigError
from rnp_jax.models import Architecture, Network
from rnp_jax.sweep.items import Item

OPTIONS = SweepOptions(
    write="row",
    source=SourceOptions(normalization="digits"),
    images=DataOptions(data="digits", image_size=16, test_images=60),
    defense=DefenseSetOptions(size=100),
    rnp=RnpConfig(UnlearnConfig(batch_size=40, max_epochs=2), RecoverConfig(batch_size=40, epochs=2)),
    clp=ClpConfig(threshold=ThresholdConfig("number", number=2)),
)


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Four networks of one architecture and different weights."""
    folder = tmp_path_factory.mktemp("nets")
    network = Network(Architecture("resnet18", 10, 4, (), (16, 16, 3)), *vars(NORMALIZATIONS["digits"]).values())
    found = []
    for seed in range(4):
        path = folder / f"{seed}.pt"
        save_variables(path, network, network.init(jax.random.key(seed)))
        model = load_model(path, normalization=NORMALIZATIONS["digits"], image_shape=(16, 16, 3))
        overrides = {"image_shape": [16, 16, 3]}
        found.append(Item(f"{seed}" * 64, str(path), model.checkpoint.sha256, "rnp", "", overrides))
    return found


def test_after_the_first_item_nothing_is_compiled(items, tmp_path):
    """Of networks of one architecture, whatever their weights, for every method."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    job = SweepJob(OPTIONS, tmp_path)
    for method in ("none", "clp", "rnp"):
        counts = []
        for item in items:
            item = replace(item, method=method)
            before = len(compiled)
            row = job.run(item, job.load(item), 1)
            assert row.status == "ok"
            counts.append(len(compiled) - before)
        assert counts[0] > 0
        assert counts[2:] == [0, 0], "the second may meet another number of pruned filters"


def test_images_are_read_once(items, tmp_path):
    job = SweepJob(OPTIONS, tmp_path)
    first, second = (job.load(item) for item in items[:2])
    assert first.sets is second.sets
    assert first.model is not second.model
    other = replace(items[0], overrides={**items[0].overrides, "attack": "badnets", "target": 2})
    assert job.load(other).sets.triggered is not None


def test_a_file_that_changed_since_the_plan_is_refused(items, tmp_path):
    path = tmp_path / "net.pt"
    shutil.copy(items[1].path, path)
    with pytest.raises(CheckpointError, match="changed after the sweep was planned"):
        SweepJob(OPTIONS, tmp_path).load(replace(items[0], path=str(path)))


def test_a_defense_without_filters_is_refused_before_it_runs(items, tmp_path):
    options = replace(OPTIONS, compute=replace(OPTIONS.compute, placement="unit"))
    with pytest.raises(ConfigError, match="no filters there"):
        SweepJob(options, tmp_path).load(items[0])


def test_what_is_kept_of_an_item(items, tmp_path):
    for write, kept in (("row", []), ("cleaned", ["cleaned.pt"])):
        out = tmp_path / write
        item = replace(items[0], method="clp")
        job = SweepJob(replace(OPTIONS, write=write), out)
        row = job.run(item, job.load(item), 3)
        assert (row.attempt, row.report, row.pruned) == (3, None, row.pruned)
        assert [path.name for path in out.glob("items/*/*")] == kept
    cleaned = load_model(
        out / "items" / item.key[:16] / "cleaned.pt", normalization=NORMALIZATIONS["digits"], image_shape=(16, 16, 3)
    )
    assert any((np.asarray(leaf) == 0).any() for leaf in jax.tree.leaves(cleaned.variables["params"]))
