"""ASR after an attempt to bring the backdoor back, in the rows of items."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import jax
import pytest

from rnp_jax.checkpoints import load_model, save_variables
from rnp_jax.config import DataOptions, DefenseSetOptions
from rnp_jax.defenses import ClpConfig, FinetuneConfig, ThresholdConfig, phase
from rnp_jax.errors import DiskFullError, UnusableDataError
from rnp_jax.pipeline.options import schema_for
from rnp_jax.pipeline.reactivating import reactivate_checkpoint
from rnp_jax.pipeline.reactivation_options import ReactivationOptions
from rnp_jax.reactivation import REACTIVATIONS
from rnp_jax.reactivation.ra import RaConfig
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.sweep.items import Item
from rnp_jax.sweep.job import ITEMS, SweepJob
from rnp_jax.sweep.options import Reactivate, SweepOptions
from tests.compiled import count_compiled

IMAGES = DataOptions(test_images=205)  # more of some classes than of others
OPTIONS = schema_for(SweepOptions, ("none", "clp"))(
    images=IMAGES,
    defense=DefenseSetOptions(size=40),
    clp=ClpConfig(threshold=ThresholdConfig("number", number=2)),  # pyright: ignore[reportCallIssue]
    reactivate="ra",
    seed=3,
)


def make_item(path: Path, method: str = "clp", **overrides) -> Item:
    return Item(hashlib.sha256(path.read_bytes()).hexdigest(), str(path), hashlib.sha256(path.read_bytes()).hexdigest(),
                method, "", overrides)  # fmt: skip


def run(job: SweepJob, item: Item) -> SweepRow:
    return job.run(item, job.load(item), 1)


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> SweepJob:
    return SweepJob(OPTIONS, tmp_path_factory.mktemp("sweep"), "cleaned")


def test_the_attempts_are_those_that_need_no_other_network_and_are_called_by_their_titles():
    free = {name for name, attempt in REACTIVATIONS.items() if not attempt.needs}
    assert set(get_args(Reactivate)) == {"none", *free}
    assert [REACTIVATIONS[name].title for name in free] == [name.upper() for name in free]


def test_a_row_has_the_figures_of_the_command_on_the_cleaned_file(job, small_victim, tmp_path, monkeypatch):
    """With a budget that tells the outcome from its control."""
    strong = RaConfig(images=(60,), finetune=FinetuneConfig(epochs=4, learning_rate=0.05, weight_decay=0.0))
    with monkeypatch.context() as patched:
        brief = replace(REACTIVATIONS["ra"], brief=strong)
        patched.setattr("rnp_jax.pipeline.reactivating.find_reactivation", lambda _: brief)
        row = run(job, item := make_item(small_victim))
    cleaned = str(job._out / ITEMS / item.key[:16] / "cleaned.pt")
    options = ReactivationOptions(cleaned, original=str(small_victim), by=("ra",), images=IMAGES, seed=3, ra=strong)
    (attempt,) = reactivate_checkpoint(options, str(tmp_path / "out")).result.attempts
    assert row.reactivation == "ra"
    assert attempt.after is not None
    assert (row.asr_reactivated, row.asr_reactivated_control) == (attempt.after.asr, attempt.controls[0].asr)
    assert row.asr_reactivated.value > row.asr_reactivated_control.value
    assert [stage.stage for stage in row.timing].count("reactivate") == 1


def test_the_second_item_of_an_architecture_compiles_nothing_whatever_its_target(job, small_victim, tmp_path):
    model = load_model(small_victim)
    other = {**model.variables, "params": jax.tree.map(lambda leaf: 0.9 * leaf, model.variables["params"])}
    save_variables(tmp_path / "other.pt", model.network, other)
    stated = {"attack": "badnets", "normalization": "0.3,0.3,0.3/0.3,0.3,0.3", "image_shape": [8, 8, 3]}
    overrides = [{**stated, "data": "digits", "image_size": 8, "target": target} for target in (0, 8)]
    compiled, traced = [], count_compiled(phase._run_until)
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, _, **__: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    rows, counts = [], []
    for target in overrides:
        loaded = job.load(item := make_item(tmp_path / "other.pt", **target))
        before = len(compiled)
        rows.append(job.run(item, loaded, 1))
        counts.append((len(compiled) - before, count_compiled(phase._run_until)))
    assert rows[0].asr.total != rows[1].asr.total, "as many images of one target as of the other"
    assert counts[1][0] == 0
    assert counts[1][1] - traced == counts[0][1] - traced <= 1
    assert None not in {row.asr_reactivated for row in rows}


def test_what_has_no_trigger_or_no_defense_has_no_figure_and_says_nothing(job, small_victim):
    row = run(job, make_item(small_victim, attack="none"))
    assert (row.status, row.reactivation, row.asr_reactivated, row.attack) == ("ok", "ra", None, "none")
    assert "RA could not" not in row.note
    assert run(job, make_item(small_victim, "none")).reactivation is None


def test_without_the_option_nothing_is_tried_and_nothing_is_imported(small_victim, tmp_path):
    row = run(SweepJob(replace(OPTIONS, reactivate="none"), tmp_path), make_item(small_victim))
    assert (row.reactivation, row.asr_reactivated, row.asr_reactivated_control) == (None, None, None)
    assert "reactivate" not in [stage.stage for stage in row.timing]
    code = "import sys, rnp_jax.sweep.running, rnp_jax.commands.compare; print('rnp_jax.reactivation' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_an_attempt_that_fails_leaves_the_row_its_other_figures(job, small_victim, head, tmp_path, monkeypatch):
    made = run(job, make_item(small_victim))
    fails = SweepJob(OPTIONS, tmp_path)

    def fail(*_):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("rnp_jax.sweep.job.draw_scene", fail)
    row = run(fails, make_item(small_victim))
    assert (row.status, row.acc, row.asr, row.asr_reactivated) == ("ok", made.acc, made.asr, None)
    assert row.note.endswith("RA could not be made: RuntimeError: out of memory")
    row = run(SweepJob(OPTIONS, tmp_path), make_item(head))
    assert row.note.endswith(
        "RA could not be made: the network is a head on features, and re-activation takes networks that read images"
    )


@pytest.mark.parametrize("error", [UnusableDataError("the data is gone"), DiskFullError("no room")])
def test_what_no_item_is_to_blame_for_makes_no_row(small_victim, tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr("rnp_jax.sweep.job.draw_scene", fail)
    with pytest.raises(type(error), match=str(error)):
        run(SweepJob(OPTIONS, tmp_path), make_item(small_victim))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "controlled"), [("wba", True), ("bba", False)])
def test_the_other_attempts(small_victim, tmp_path, name, controlled):
    row = run(SweepJob(replace(OPTIONS, reactivate=name), tmp_path), make_item(small_victim))
    assert (row.reactivation, row.asr_reactivated_control is not None) == (name, controlled)
    assert row.asr_reactivated.total == row.asr.total
