"""The rows of items: what is kept, what is compiled, what controls do, and several checkpoints at once."""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from rnp_jax.checkpoints import load_model, save_variables
from rnp_jax.config import ComputeOptions, DataOptions, DefenseSetOptions, SourceOptions
from rnp_jax.data import NORMALIZATIONS
from rnp_jax.defenses import ClpConfig, HolderPruneConfig, RecoverConfig, RnpConfig, ThresholdConfig, UnlearnConfig
from rnp_jax.detection.evidence import Finding, LabelEvidence
from rnp_jax.errors import CheckpointError, ConfigError
from rnp_jax.models import Architecture, Network
from rnp_jax.pipeline.options import schema_for
from rnp_jax.report.schema import read_result
from rnp_jax.report.sweep_row import RUN_FIELDS, SweepRow
from rnp_jax.sweep.items import Item, read_plan, write_plan
from rnp_jax.sweep.job import SweepJob
from rnp_jax.sweep.ledger import Ledger
from rnp_jax.sweep.options import SweepOptions
from rnp_jax.sweep.shift import COVARIATE
from rnp_jax.sweep.worker import work
from tests.compiled import watch_compilations

OPTIONS = schema_for(SweepOptions, ("none", "clp", "rnp"))(
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
    job = SweepJob(OPTIONS, tmp_path)
    for method in ("none", "clp", "rnp"):
        counts = []
        for item in items:
            item = replace(item, method=method)
            with watch_compilations() as compiled:
                row = job.run(item, job.load(item), 1)
            assert row.status == "ok"
            counts.append(compiled.total())
        assert counts[0] > 0
        assert counts[2:] == [0, 0], "the second may meet another number of pruned filters"


def test_images_are_read_once(items, tmp_path):
    job = SweepJob(OPTIONS, tmp_path)
    first, second = (job.load(item) for item in items[:2])
    assert first.case.sets is second.case.sets
    assert first.case.model is not second.case.model
    other = replace(items[0], overrides={**items[0].overrides, "attack": "badnets", "target": 2})
    assert job.load(other).case.sets.triggered is not None


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
        job = SweepJob(OPTIONS, out, write)
        row = job.run(item, job.load(item), 3)
        assert (row.attempt, row.report, row.pruned) == (3, None, row.pruned)
        assert [path.name for path in out.glob("items/*/*")] == kept
    cleaned = load_model(
        out / "items" / item.key[:16] / "cleaned.pt", normalization=NORMALIZATIONS["digits"], image_shape=(16, 16, 3)
    )
    assert any((np.asarray(leaf) == 0).any() for leaf in jax.tree.leaves(cleaned.variables["params"]))


SUSPECT = LabelEvidence(3, 2.0, 40.0, 41.0, (1.0, 0.02), (0.9, 0.3), (0.8, 0.1), (0.7, 0.1), (0.4, 0.9), (1.0, 0.05))
FOUND = Finding("traces", True, (SUSPECT,), (replace(SUSPECT, label=5),), (28.0, math.inf), ("One reason.",))
TOLD = {"evidence": "traces", "visible_before": True, "smallest_after": 40.0, "ordinary_after": None}


def evidence_of(row: SweepRow) -> dict:
    return {name: getattr(row, name) for name in TOLD}


@pytest.mark.parametrize("write", ["row", "cleaned", "report"])
def test_evidence_is_in_the_row_whatever_is_kept(items, tmp_path, monkeypatch, write):
    monkeypatch.setattr("rnp_jax.pipeline.evidence.gather_evidence", lambda *_, **__: FOUND)
    monkeypatch.setattr("rnp_jax.pipeline.evidence.find_doubt", lambda *_: None)  # the networks are untrained
    item = replace(items[0], method="clp")
    job = SweepJob(replace(OPTIONS, evidence="unknown", sweep_images=0), tmp_path, write)
    row = job.run(item, job.load(item), 1)
    assert evidence_of(row) == TOLD
    assert [stage.stage for stage in row.timing].count("evidence") == 1
    if row.report is not None:
        result = read_result((tmp_path / row.report).with_name("result.json"))
        assert result.evidence is not None
        assert (result.evidence.level, result.evidence.smallest_after) == ("traces", 40.0)


def test_without_searches_a_row_has_no_evidence(items, tmp_path, monkeypatch):
    monkeypatch.setattr("rnp_jax.pipeline.evidence.gather_evidence", pytest.fail)
    for method, evidence in (("clp", "never"), ("none", "always")):
        item = replace(items[0], method=method)
        job = SweepJob(replace(OPTIONS, evidence=evidence), tmp_path)
        assert evidence_of(job.run(item, job.load(item), 1)) == dict.fromkeys(TOLD)


CONTROLS = ("none", "holder", "clp", "random", "oracle")
TWO = HolderPruneConfig(threshold=ThresholdConfig("number", number=2))
EXPLAINED = schema_for(SweepOptions, CONTROLS)(
    images=DataOptions(test_images=100),
    defense=DefenseSetOptions(size=40, holdout=0.5),
    compute=ComputeOptions(batch_size=20),
    holder=TWO,
)


def run_all(options: SweepOptions, path: Path, out: Path, methods: Sequence[str], **overrides) -> dict[str, SweepRow]:
    """The rows of one checkpoint under several methods, in one job."""
    job, sha256 = SweepJob(options, out, explain=True), hashlib.sha256(path.read_bytes()).hexdigest()
    items = [Item(f"{i}" * 64, str(path), sha256, method, "", overrides) for i, method in enumerate(methods)]
    return {item.method: job.run(item, job.load(item), 1) for item in items}


@pytest.fixture(scope="module")
def rows(head, tmp_path_factory):
    """A head under all controls, and what they are compared with."""
    return run_all(EXPLAINED, head, tmp_path_factory.mktemp("rows"), CONTROLS)


def test_rows_describe_the_run(rows, head):
    for method, row in rows.items():
        assert (row.checkpoint, row.method, row.status) == (str(head), method, "ok")
        assert (row.attack, row.poison_rate, row.seed, row.mode) == ("badnets", 0.1, 0, "head")
        assert (row.acc.total, row.asr.total, row.ra.total) == (100, 90, 90)


def test_what_was_done_to_the_model(rows):
    before = rows["none"]
    assert (before.pruned, before.units, before.der, before.acc_before) == (None, None, None, None)
    for method in ("holder", "random", "oracle"):
        assert (rows[method].pruned, rows[method].units) == (4, 28)  # two of each layer
    for method in ("holder", "clp", "random", "oracle"):
        after = rows[method]
        assert (after.acc_before, after.asr_before, after.ra_before) == (before.acc, before.asr, before.ra)
        gain = max(0.0, before.asr.value - after.asr.value) - max(0.0, before.acc.value - after.acc.value)
        assert after.der == pytest.approx((gain + 1) / 2)


def test_features_are_timed_once_and_every_row_has_its_own_stages(rows):
    stages = {method: [stage.stage for stage in row.timing] for method, row in rows.items()}
    assert stages.pop("none") == ["cache features", "measure"]
    assert set(map(tuple, stages.values())) == {("score", "choose", "measure")}
    assert all(row.seconds > 0 for row in rows.values())


def test_the_oracle_is_no_worse_than_chance(rows):
    assert rows["oracle"].asr.value <= rows["random"].asr.value


def test_what_explains_the_outcome_is_measured_on_the_checkpoint_as_it_is(rows):
    assert rows["none"].covariates[COVARIATE] > 0
    assert all(row.covariates == {} for method, row in rows.items() if method != "none")


def test_a_control_alone_prunes_as_many_as_beside_its_defense(head, tmp_path):
    (row,) = run_all(replace(EXPLAINED, seed=5), head, tmp_path, ["random"]).values()
    assert (row.method, row.pruned) == ("random", 4)


def test_a_checkpoint_whose_trigger_is_not_known(items, tmp_path):
    options = schema_for(SweepOptions, CONTROLS)(source=OPTIONS.source, images=OPTIONS.images, holder=TWO)
    found = run_all(options, Path(items[0].path), tmp_path, ("none", "random", "oracle"), image_shape=[16, 16, 3])
    assert (found["oracle"].status, found["oracle"].acc) == ("skipped", None)
    assert found["oracle"].reason == "Oracle needs the trigger, which is not known"
    assert (found["none"].attack, found["none"].asr, found["none"].covariates) == ("none", None, {COVARIATE: None})
    assert (found["random"].status, found["random"].der) == ("ok", None)
    assert found["random"].pruned > 0


def test_a_network_at_chance_is_told_of_in_every_row(items, tmp_path):
    options = replace(OPTIONS, evidence="always", sweep_images=0)
    for method in ("none", "clp"):
        job, item = SweepJob(options, tmp_path), replace(items[0], method=method)
        row = job.run(item, job.load(item), 1)
        assert "better than guessing (10.0%)" in row.note
        assert "Only 60 images to measure ACC on: 100 or more make sense." in row.note
        assert (row.status, row.doubt, row.evidence) == ("ok", "at chance", None)


def test_a_card_whose_rate_is_no_share_is_the_file_s_fault(small_victim, tmp_path):
    for file in small_victim.parent.glob(f"{small_victim.stem}.*"):
        shutil.copy(file, tmp_path)
    path = tmp_path / small_victim.name
    card = json.loads(path.with_suffix(".card.json").read_text())
    path.with_suffix(".card.json").write_text(json.dumps({**card, "attack": {**card["attack"], "rate": 1.5}}))
    with pytest.raises(CheckpointError, match=r"poison rate of 1\.5, expected a share"):
        run_all(EXPLAINED, path, tmp_path, ["none"])


def measure_on_two(folder: str) -> None:
    """A worker on the plan in a folder, in a process that has two devices; prints how often it compiled, by hand."""
    out = Path(folder)
    counts = []

    class Counting(SweepJob):
        def run_hand(self, items, loaded, attempt):
            with watch_compilations() as compiled:
                rows = super().run_hand(items, loaded, attempt)
            counts.append((len(items), compiled.total()))
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
    code = "import sys; from tests.sweep.test_job import measure_on_two; measure_on_two(sys.argv[1])"
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
    ledger = Ledger(out)
    rows = [ledger.row(item.key) for item in planned]
    assert [row and row.status for row in rows] == ["ok"] * 4 + [None] + ["ok"] * 4
    assert "changed after the sweep was planned" in ledger.why_aside(planned[4].key)
    assert [size for size, _ in counts] == [2, 2, 1, 2, 1]


@pytest.mark.slow
def test_hands_are_compiled_for_once(on_two):
    """Programs for several are those of the first hand, programs for one those of the first hand of one."""
    _, _, counts = on_two
    assert counts[0][1] > 0
    assert [compiled for size, compiled in counts[1:] if size == 2] == [0, 0]
    assert counts[-1][1] == 0
