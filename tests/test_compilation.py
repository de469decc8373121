"""Programs are found by later processes, and only in a folder that nobody else can write to."""

import json
import os
import stat
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from rnp_jax import compilation
from rnp_jax.compilation import cache_folder, clear_cache, describe_cache, drop_programs, enable_cache, machine_name
from rnp_jax.errors import ConfigError

ROOT = Path(__file__).parents[1]
SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The name of a cache folder of this test's own; JAX's settings are put back after it."""
    before = {name: jax.config.values[name] for name in SETTINGS}
    monkeypatch.setenv("RNP_JAX_CACHE_DIR", str(tmp_path / "programs"))
    monkeypatch.setenv("RNP_JAX_CACHE", "on")
    jax.config.update("jax_compilation_cache_dir", None)  # the tests' own
    yield tmp_path / "programs"
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def compile_afresh(shift: float) -> None:
    """Compiles, or finds, a program that only this test has, and checks what it computes."""
    jax.clear_caches()

    def shifted(x):
        return jnp.cumsum(x) + shift

    result = jax.jit(shifted)(np.ones(3, np.float32))
    np.testing.assert_array_equal(result, np.array([1, 2, 3], np.float32) + np.float32(shift))


def programs_in(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.glob("**/jit_shifted-*-cache")}


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_the_folder_follows_the_environment(monkeypatch, tmp_path):
    for name in ("RNP_JAX_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/ada")
    assert cache_folder() == Path("/home/ada/.cache/rnp_jax/programs")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path("/home/ada/.cache/rnp_jax/programs")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder() == Path("/cache/rnp_jax/programs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RNP_JAX_CACHE_DIR", "here")
    assert cache_folder() == tmp_path / "here"


def test_programs_are_kept_once_and_found_again(cache):
    folder = enable_cache()
    assert folder == cache / machine_name()
    compile_afresh(0.25)
    kept = programs_in(cache)
    assert len(kept) == 1
    compile_afresh(0.25)
    assert programs_in(cache) == kept  # the same file: found, not written anew
    compile_afresh(0.5)
    assert len(programs_in(cache)) == 2


def test_only_the_user_may_enter_the_folders_that_are_made(cache, tmp_path):
    old = os.umask(0)
    try:
        folder = enable_cache(tmp_path / "a" / "b")
    finally:
        os.umask(old)
    assert folder is not None
    for made in (folder, folder.parent, folder.parent.parent):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700


def test_another_folder_takes_effect_though_the_first_was_in_use(cache, tmp_path):
    enable_cache()
    compile_afresh(0.25)
    enable_cache(tmp_path / "other")
    compile_afresh(0.25)
    assert len(programs_in(cache)) == len(programs_in(tmp_path / "other")) == 1


def test_a_cache_that_jax_was_given_is_left_as_it_is(cache, tmp_path, monkeypatch):
    monkeypatch.delenv("RNP_JAX_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "unused"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "given"))
    assert enable_cache() == tmp_path / "given"
    assert not (tmp_path / "unused").exists()


def test_it_can_be_switched_off(cache, monkeypatch):
    monkeypatch.setenv("RNP_JAX_CACHE", "off")
    assert enable_cache() is None
    assert not cache.exists()
    monkeypatch.setenv("RNP_JAX_CACHE", "no")
    with pytest.raises(ConfigError, match="RNP_JAX_CACHE is 'no'; expected on or off"):
        enable_cache()


def test_a_home_that_cannot_be_written_costs_the_cache_and_no_more(cache, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="no compiled programs can be kept"):
        enable_cache(tmp_path / "file" / "programs")  # asked for by name
    monkeypatch.delenv("RNP_JAX_CACHE_DIR")
    assert enable_cache() is None
    compile_afresh(0.25)


def link(folder: Path) -> None:
    folder.with_name("elsewhere").mkdir(mode=0o700)
    folder.symlink_to(folder.with_name("elsewhere"))


def dangling_link(folder: Path) -> None:
    folder.symlink_to(folder.with_name("nowhere"))


def open_to_all(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)


def open_to_the_group(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o770)


def in_a_folder_open_to_all(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    folder.parent.chmod(0o777)


def machine_is_a_link(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    link(folder / machine_name())


def a_file(folder: Path) -> None:
    folder.touch()


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (link, "is a link"),
        (dangling_link, "is a link"),
        (machine_is_a_link, "is a link"),
        (a_file, "is not a folder"),
        (open_to_all, "run chmod go-w"),
        (open_to_the_group, "run chmod go-w"),
        (in_a_folder_open_to_all, "is open to all"),
    ],
)
def test_folders_through_which_programs_could_be_planted_are_refused(prepare, message, cache):
    prepare(cache)
    with pytest.raises(ConfigError, match=message):
        enable_cache()
    assert jax.config.values["jax_compilation_cache_dir"] != str(cache / machine_name())


def test_another_users_folder_is_refused(cache, monkeypatch):
    cache.mkdir(mode=0o700)
    monkeypatch.setattr(os, "geteuid", lambda: cache.stat().st_uid + 1)
    for use in (enable_cache, describe_cache, clear_cache):
        with pytest.raises(ConfigError, match=r"belongs to user \d+: name a folder of your own"):
            use()


def test_a_damaged_program_is_compiled_again_and_dropped_by_the_next_process(cache):
    enable_cache()
    for shift in (0.25, 0.5, 0.75):
        compile_afresh(shift)
    whole, cut, empty = sorted(cache.glob("**/jit_shifted-*-cache"), key=os.path.getmtime)
    cut.write_bytes(cut.read_bytes()[:-5])
    empty.write_bytes(b"")
    for shift in (0.25, 0.5, 0.75):
        compile_afresh(shift)  # neither an error nor a warning, and the right values
    enable_cache()
    assert cut.exists()  # it might be on its way from another process
    for path in (whole, cut, empty):
        age(path, 20)
    (cache / ".tended").unlink()
    enable_cache()
    assert [path.exists() for path in (whole, cut, empty)] == [True, False, False]
    cut.write_bytes(b"")
    age(cut, 3600)  # from before entries were last looked at
    enable_cache()
    assert cut.exists()


def test_beyond_its_bound_the_cache_drops_what_was_not_used_for_longest(cache, monkeypatch):
    enable_cache()
    for shift in (0.25, 0.5, 0.75):
        compile_afresh(shift)
    paths = sorted(cache.glob("**/*-cache"))
    for path, seconds in zip(paths, (100, 300, 200, *range(400, 400 + len(paths))), strict=False):
        age(path, seconds)
    monkeypatch.setattr(compilation, "SIZE_LIMIT", paths[0].stat().st_size + paths[2].stat().st_size)
    enable_cache()
    assert sorted(cache.glob("**/*-cache")) == [paths[0], paths[2]]


def test_what_is_no_regular_file_is_dropped_before_jax_waits_for_it(cache):
    machine = enable_cache()
    assert machine is not None
    os.mkfifo(machine / "jit_a-1-cache")
    os.mkfifo(machine / "jit_a-1-atime")
    (machine / "jit_b-2-cache").symlink_to("/dev/zero")
    (machine / "other").symlink_to("/dev/zero")
    enable_cache()
    assert [path.name for path in machine.iterdir()] == ["other"]


def test_a_program_that_would_fill_the_memory_is_looked_at_piece_by_piece(tmp_path):
    path = tmp_path / "jit_a-1-cache"
    path.write_bytes(zlib.compress(bytes(2**28), 1))
    tracemalloc.start()
    assert not compilation._is_cut_short(path)
    path.write_bytes(path.read_bytes()[:-3])
    assert compilation._is_cut_short(path)
    assert tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()


def test_clearing_takes_the_programs_and_nothing_else(cache, tmp_path):
    assert describe_cache() == compilation.CacheState(cache, 0, 0)
    assert clear_cache().programs == 0
    folder = enable_cache()
    assert folder is not None
    compile_afresh(0.25)
    outside = tmp_path / "outside"
    outside.mkdir()
    precious = [outside / "mine-cache", cache / "mine-cache", folder / "notes.txt"]
    for path in precious:
        path.write_text("precious")
    (folder / "link-cache").symlink_to(precious[0])
    (folder / "folder").symlink_to(outside)
    (cache / "jaxlib-elsewhere").symlink_to(outside)
    autotuned = folder / "xla_gpu_per_fusion_autotune_cache_dir" / "tmp" / "tmp_1.textproto"
    autotuned.parent.mkdir(parents=True)
    autotuned.write_text("kernel")
    compiled = list(folder.glob("jit*-cache"))
    state = describe_cache()
    assert state == compilation.CacheState(cache, len(compiled), sum(p.stat().st_size for p in [*compiled, autotuned]))
    assert clear_cache() == state
    assert describe_cache().size == 0
    assert all(path.read_text() == "precious" for path in precious)
    assert not autotuned.exists()
    compile_afresh(0.25)  # and what runs goes on to keep what it compiles
    assert len(programs_in(cache)) == 1


COUNTED = """
import json, sys
from collections import Counter
import jax
from rnp_jax.cli import main
counts = Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event.rpartition("/")[2]]))
status = main(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    json.dump({"status": status, "found": counts["cache_hits"], "kept": counts["cache_misses"]}, file)
"""


def test_a_second_process_finds_what_the_first_compiled(tmp_path):
    environment = {**os.environ, "RNP_JAX_CACHE": "on", "RNP_JAX_CACHE_DIR": str(tmp_path / "programs")}
    environment["PYTHONPATH"] = str(ROOT)
    shrunk = ("--test-images", "100", "--batch-size", "100")

    def evaluate(name: str) -> tuple[dict, dict]:
        arguments = ["evaluate", str(ROOT / "checkpoints" / "digits_clean.pt"), *shrunk, "--out", f"{name}.json"]
        command = [sys.executable, "-c", COUNTED, "counts.json", *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stderr == ""  # no complaint about the machine that the programs were made for
        return json.loads((tmp_path / "counts.json").read_text()), json.loads((tmp_path / f"{name}.json").read_text())

    first, figures = evaluate("first")
    second, again = evaluate("second")
    assert first["status"] == second["status"] == 0
    assert first["kept"] > 0
    assert second == {"status": 0, "found": first["found"] + first["kept"], "kept": 0}
    assert again["metrics"] == figures["metrics"]


def test_programs_are_dropped_before_the_process_has_no_memory_maps_left(monkeypatch, tmp_path):
    traced = []

    @jax.jit
    def double(x):
        traced.append(x)
        return 2 * x

    def compile_twice() -> int:
        traced.clear()
        double(jnp.ones(3))
        double(jnp.ones(3))
        return len(traced)

    assert compile_twice() == 1
    limit = tmp_path / "max_map_count"
    monkeypatch.setattr(compilation, "_MOST_MAPS", limit)
    assert not drop_programs(), "no such file, as outside Linux"
    maps = len(Path("/proc/self/maps").read_text().splitlines())
    limit.write_text(f"{100 * maps}\n")
    assert not drop_programs()
    assert compile_twice() == 0
    limit.write_text(f"{maps}\n")
    assert drop_programs()
    assert compile_twice() == 1
