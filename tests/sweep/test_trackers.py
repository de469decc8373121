import hashlib
import os
import shutil
import struct
import sys
import warnings
from pathlib import Path

import pytest

from rnp_jax.errors import ConfigError, DiskFullError, OutsideError
from rnp_jax.report.schema import Proportion, Stage
from rnp_jax.report.sweep_row import SweepRow
from rnp_jax.sweep.trackers import figures_of, open_tracker
from rnp_jax.sweep.worker import failed_row
from tests.sweep.light import items_of
from tests.test_disk_full import room


def share(value):
    return Proportion(value=value, low=0.0, high=1.0, count=int(4 * value), total=4)


def row_of(name, method, acc, asr):
    key = hashlib.sha256(f"{name} {method}".encode()).hexdigest()
    timing = (Stage(stage="load", seconds=0.5), Stage(stage="prune", seconds=1.0))
    return SweepRow(checkpoint=name, method=method, attack="badnets", poison_rate=0.1, key=key, status="ok",
                    acc=share(acc), asr=share(asr), der=0.25, timing=timing)  # fmt: skip


ROWS = (
    row_of("models/a.pt", "clp", 0.75, 0.5),
    failed_row(items_of("models/b.pt")[0], "rejected", "no checkpoint"),
    row_of("models/a.pt", "rnp", 0.5, 0.0),
    failed_row(items_of("models/c.pt")[0], "failed", "nothing to prune"),
)


def log(name, out, rows=ROWS):
    with open_tracker(name, out) as tracker:
        for row in rows:
            tracker.log(row)


def test_figures_are_those_that_the_row_knows():
    assert figures_of(ROWS[0]) == {"acc": 0.75, "asr": 0.5, "der": 0.25, "seconds": 1.5}
    assert figures_of(ROWS[1]) == {}


def test_no_tracker_writes_nothing(tmp_path):
    log("none", tmp_path)
    assert not list(tmp_path.iterdir())


def read_events(folder: Path):
    """The events of TensorBoard's files: records of length, checksum, bytes, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            [length] = struct.unpack_from("<Q", content, at)
            yield Event.FromString(content[at + 12 : at + 12 + length])
            at += length + 16


def test_tensorboard_has_a_curve_for_each_figure_method_and_attack(tmp_path):
    pytest.importorskip("tensorboardX")
    log("tensorboard", tmp_path)
    scalars, texts = {}, {}
    for event in read_events(tmp_path / "tensorboard"):
        for value in event.summary.value:
            if value.HasField("tensor"):
                texts[event.step] = value.tensor.string_val[0].decode()
            else:
                scalars[value.tag, event.step] = value.simple_value
    assert scalars == {
        ("acc/clp/badnets", 0): 0.75,
        ("asr/clp/badnets", 0): 0.5,
        ("der/clp/badnets", 0): 0.25,
        ("seconds/clp/badnets", 0): 1.5,
        ("acc/rnp/badnets", 2): 0.5,
        ("asr/rnp/badnets", 2): 0.0,
        ("der/rnp/badnets", 2): 0.25,
        ("seconds/rnp/badnets", 2): 1.5,
        ("items/ok", 4): 2.0,
        ("items/rejected", 4): 1.0,
        ("items/failed", 4): 1.0,
        ("items/skipped", 4): 0.0,
    }
    assert sorted(texts) == [0, 1, 2, 3]
    assert "checkpoint: models/b.pt" in texts[1]
    assert "reason: no checkpoint" in texts[1]


@pytest.fixture
def mlflow(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # for the reading
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it warns of when it is imported is its own affair
        return pytest.importorskip("mlflow")


def read_runs(mlflow, store: Path, name: str):
    client = mlflow.MlflowClient(store.as_uri())
    experiment = client.get_experiment_by_name(name)
    return {run.info.run_name + run.data.tags.get("method", ""): run for run in
            client.search_runs([experiment.experiment_id])}  # fmt: skip


def test_mlflow_has_a_run_a_row_and_one_of_the_sweep(tmp_path, mlflow):
    out = tmp_path / "a sweep"
    log("mlflow", out)
    runs = read_runs(mlflow, out / "mlruns", "a sweep")
    assert set(runs) == {"a.ptclp", "a.ptrnp", "b.ptnone", "c.ptnone", "sweep"}
    first = runs["a.ptclp"]
    assert first.data.metrics == {"acc": 0.75, "asr": 0.5, "der": 0.25, "seconds": 1.5}
    assert first.data.params == {"checkpoint": "models/a.pt", "method": "clp", "attack": "badnets"}
    assert (first.data.tags["key"], first.data.tags["status"], first.info.status) == (ROWS[0].key, "ok", "FINISHED")
    assert (runs["b.ptnone"].data.tags["reason"], runs["b.ptnone"].info.status) == ("no checkpoint", "FAILED")
    assert runs["sweep"].data.metrics == {"items_ok": 2, "items_rejected": 1, "items_failed": 1, "items_skipped": 0}


def test_mlflow_goes_on_in_the_experiment_of_before_and_where_it_is_told(tmp_path, mlflow, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "elsewhere").as_uri())
    for row in (ROWS[0], ROWS[2]):
        log("mlflow", tmp_path / "b", [row])
    assert not (tmp_path / "b").exists()
    assert {"a.ptclp", "a.ptrnp"} < set(read_runs(mlflow, tmp_path / "elsewhere", "b"))


def test_an_mlflow_store_that_cannot_be_opened_is_refused(tmp_path, mlflow, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nothing://there")
    with pytest.raises(ConfigError, match="nothing://there cannot be opened; remove it, or name another"):
        log("mlflow", tmp_path)


@pytest.mark.parametrize("name", ["tensorboard", "mlflow"])
def test_without_room_it_says_so_and_goes_on_when_there_is_some(name, tmp_path, mlflow):
    pytest.importorskip("tensorboardX")
    full = pytest.raises(DiskFullError, match=r"File too large; free some space and run the same command again$")
    for size in (0, 100, 300):
        with full, room(size):
            log(name, tmp_path / str(size))
        log(name, tmp_path / str(size))
    with room(1000_000):
        log(name, tmp_path / "roomy")


def test_an_mlflow_store_that_cannot_be_written_to_is_no_item_s_fault(tmp_path, mlflow):
    def vanishing():
        shutil.rmtree(tmp_path / "mlruns")
        yield ROWS[0]

    with pytest.raises(OutsideError, match="cannot be written to; the same command goes on"):
        log("mlflow", tmp_path, vanishing())


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("tensorboard", "tensorboardX", "tensorboardX"), ("mlflow", "mlflow", "mlflow-skinny")],
)
def test_without_its_library_it_says_what_to_install(tmp_path, monkeypatch, name, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    before = dict(os.environ)
    with pytest.raises(ConfigError, match=f"pip install {package}"):
        log(name, tmp_path)
    assert dict(os.environ) == before


def test_what_was_told_before_an_interrupt_is_kept(tmp_path):
    pytest.importorskip("tensorboardX")

    def interrupted():
        yield ROWS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        log("tensorboard", tmp_path, interrupted())
    tags = [value.tag for event in read_events(tmp_path / "tensorboard") for value in event.summary.value]
    assert {"acc/clp/badnets", "items/ok"} < set(tags)
