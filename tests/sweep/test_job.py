import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from rnp_jax.checkpoints import load_model, save_variables
from rnp_jax.config import DataOptions, DefenseSetOptions, SourceOptions
from rnp_jax.data import NORMALIZATIONS
from rnp_jax.defenses import ClpConfig, RecoverConfig, RnpConfig, ThresholdConfig, UnlearnConfig
from rnp_jax.errors import CheckpointError, ConfigError
from rnp_jax.models import Architecture, Network
from rnp_jax.report.sweep_row import RUN_FIELDS
from rnp_jax.sweep.items import Item, read_plan, write_plan
from rnp_jax.sweep.job import SweepJob
from rnp_jax.sweep.ledger import Ledger
from rnp_jax.sweep.options import SweepOptions
from rnp_jax.sweep.worker import work

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


@pytest.mark.slow
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


def measure_on_two(folder: str) -> None:
    """A worker on the plan in a folder, in a process that has two devices; prints how often it compiled, by hand."""
    out = Path(folder)
    compiled, counts = [], []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )

    class Counting(SweepJob):
        def run_hand(self, items, loaded, attempt):
            before = len(compiled)
            rows = super().run_hand(items, loaded, attempt)
            counts.append((len(items), len(compiled) - before))
            return rows

    ledger = Ledger(out)
    with ledger.join() as member:
        work(ledger, read_plan(out), Counting(OPTIONS, out), member)
    print(json.dumps([jax.local_device_count(), counts]))


@pytest.fixture(scope="module")
def on_two(items, tmp_path_factory):
    """Nine items with triggers of their own or without, one of which changed after the plan; on two devices."""
    out = tmp_path_factory.mktemp("two")
    triggers = [{"attack": "badnets", "target": 2}, {"attack": "badnets", "target": 5}, {}]
    planned = [
        replace(items[i % 4], key=f"{i:064x}", method="none", overrides={**items[0].overrides, **triggers[i % 3]})
        for i in range(9)
    ]
    planned[4] = replace(planned[4], sha256="f" * 64)
    write_plan(out, planned)
    code = "import sys; from tests.commands.test_sweep_job import measure_on_two; measure_on_two(sys.argv[1])"
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2", "JAX_PLATFORMS": "cpu"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", code, str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    devices, counts = json.loads(done.stdout)
    assert devices == 2
    return out, planned, counts


@pytest.mark.slow
def test_a_hand_has_the_rows_of_its_items_alone(on_two, tmp_path):
    out, planned, _ = on_two
    ledger, job = Ledger(out), SweepJob(OPTIONS, tmp_path)
    for item in (planned[0], planned[1], planned[2], planned[8]):
        row = ledger.row(item.key)
        expected = job.run(item, job.load(item), 1)
        assert row.model_dump(exclude={*RUN_FIELDS}) == expected.model_dump(exclude={*RUN_FIELDS})
        assert row.seconds > 0
    assert ledger.row(planned[1].key).asr is not None


@pytest.mark.slow
def test_in_a_hand_one_that_cannot_be_read_leaves_the_others(on_two):
    out, planned, counts = on_two
    rows = [Ledger(out).row(item.key) for item in planned]
    assert [row.status for row in rows] == ["ok"] * 4 + ["rejected"] + ["ok"] * 4
    assert "changed after the sweep was planned" in rows[4].reason
    assert [size for size, _ in counts] == [2, 2, 1, 2, 1]


@pytest.mark.slow
def test_hands_are_compiled_for_once(on_two):
    """Programs for several are those of the first hand, programs for one those of the first hand of one."""
    _, _, counts = on_two
    assert counts[0][1] > 0
    assert [compiled for size, compiled in counts[1:] if size == 2] == [0, 0]
    assert counts[-1][1] == 0
