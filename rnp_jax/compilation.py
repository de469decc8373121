"""JAX's persistent compilation cache: a program is compiled once for a machine type and found by every later process.

The folder is ``$RNP_JAX_CACHE_DIR``, else ``$XDG_CACHE_HOME/rnp_jax/programs``, else ``~/.cache/rnp_jax/programs``;
``RNP_JAX_CACHE=off`` goes without. Programs lie in one folder a version of jaxlib and processor type, because XLA's
programs for a CPU run only on processors with the same features, and home folders are shared by unlike machines.

A cached program is machine code that is run unexamined, so the folder has to be the user's own. JAX writes an entry in
place, neither atomically nor under a lock: a reader that comes too early compiles for itself, and what a killed
process or a full disk cut short is thrown away the next time that the cache is enabled. JAX's own bound on the size
(``jax_compilation_cache_max_size``) makes every read wait for a lock file and no longer writes once a process was
killed between an entry and its time stamp; the size is therefore bounded here, when the cache is enabled.
"""

import contextlib
import gc
import hashlib
import os
import platform
import stat
import time
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from os import PathLike
from pathlib import Path

import jax
from jax.experimental.compilation_cache import compilation_cache

from rnp_jax.cache_folder import cache_folder, check_private, is_switched_on
from rnp_jax.errors import ConfigError
from rnp_jax.help_cache import forget_help
from rnp_jax.image_cache import forget_images
from rnp_jax.regular_file import open_regular

SIZE_LIMIT = 5 * 2**30
"""Bytes beyond which the programs that were not used for longest are dropped."""

_PROGRAM = "-cache"  # how JAX ends an entry's name; "-atime" is its time stamp where JAX bounds the size itself
_AUTOTUNED = "xla_gpu_per_fusion_autotune_cache_dir"  # XLA's choices of kernels on a GPU, which JAX puts beside
_SETTLED = 10.0  # seconds after which an entry is no longer being written
_TENDED = ".tended"  # its time is that up to which entries were found whole
_MACHINE = "jaxlib-"
_PIECE = 2**20
_MAPS, _MOST_MAPS = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
_FULL = 0.5  # share of the maps from which programs are dropped: one more item or test module needs far fewer than that


@dataclass(frozen=True)
class CacheState:
    """What the cache holds: its folder, the number of compiled programs, and the bytes of all its files."""

    folder: Path
    programs: int
    size: int


def enable_cache(folder: str | PathLike[str] | None = None) -> Path | None:
    """Has JAX keep and find compiled programs in ``folder``, by default ``cache_folder()``.

    A cache that JAX was already given (``JAX_COMPILATION_CACHE_DIR``) is left as it is unless a folder is named here
    or by ``RNP_JAX_CACHE_DIR``.

    Returns:
      The folder that programs go to; None where the default one cannot be written, or the cache is switched off.

    Raises:
      ConfigError: the folder is a link, another user's, or one that others may write to; or it was asked for and
        cannot be written.
    """
    if folder is None and not is_switched_on():
        return None
    asked = folder is not None or bool(os.environ.get("RNP_JAX_CACHE_DIR"))
    if not asked and (current := jax.config.values["jax_compilation_cache_dir"]):
        return Path(current)
    try:
        root = cache_folder() if folder is None else Path(folder).absolute()
    except ConfigError:  # no home folder, as in some containers
        return None
    try:
        machine = _make_private(root)
        _tend(root)
    except OSError as error:
        if asked:
            raise ConfigError(f"no compiled programs can be kept: {error}; name another folder or --no-cache") from None
        return None
    _point_jax_at(machine)
    return machine


def check_platforms() -> None:
    """Starts JAX on the devices that ``JAX_PLATFORMS`` asks for; without it, JAX takes what there is, when it is used.

    Raises:
      ConfigError: there are none.
    """
    if asked := jax.config.values["jax_platforms"]:
        try:
            jax.devices()
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"JAX_PLATFORMS is {asked!r}: {reason}; name cpu, cuda or tpu, or unset it") from error


def drop_programs() -> bool:
    """Drops the programs that this process has compiled, where they near the number of memory maps that it may have.

    A program for a CPU takes five maps or more. Linux allows a process 65,530 (``vm.max_map_count``); where no more are
    left, JAX dies of a segmentation fault, as a rule while it writes a program to the cache. Programs that are called
    again are found there. For processes that run networks of ever other designs.

    Returns:
      Whether they were dropped; always False outside Linux.
    """
    try:
        most = int(_MOST_MAPS.read_text())
        with _MAPS.open("rb") as file:
            count = sum(1 for _ in file)
    except (OSError, ValueError):
        return False
    if count < _FULL * most:
        return False
    jax.clear_caches()
    gc.collect()
    return True


def describe_cache() -> CacheState:
    """What ``cache_folder()`` holds, for all machine types and versions together.

    Raises:
      ConfigError: the folder is not the user's own, as ``enable_cache``.
    """
    root = cache_folder()
    files = _files(root)
    return CacheState(root, sum(path.name.endswith(_PROGRAM) for path, _ in files), sum(s.st_size for _, s in files))


def clear_cache() -> CacheState:
    """Removes every cached program, help page and decoded image, and leaves whatever else lies in the folder.

    Links are not followed. The folders stay, so that processes that are running go on to keep what they compile.

    Returns:
      What was removed.

    Raises:
      ConfigError: the folder is not the user's own, as ``enable_cache``.
      OSError: a file cannot be removed.
    """
    state = describe_cache()
    for path, _ in _files(state.folder):
        path.unlink(missing_ok=True)
    forget_help()
    forget_images()
    return state


def machine_name() -> str:
    """The version of jaxlib and the processor type, as the name of a folder."""
    parts = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):  # there is none outside Linux
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").partition("\n\n")[0].splitlines()
        named = ("vendor_id", "cpu family", "model", "model name", "flags", "Features", "CPU implementer", "CPU part")
        parts += [line for line in lines if line.partition(":")[0].strip() in named]
    return f"{_MACHINE}{version('jaxlib')}-{platform.machine()}-{hashlib.sha256(repr(parts).encode()).hexdigest()[:12]}"


def _point_jax_at(folder: Path) -> None:
    if jax.config.values["jax_compilation_cache_dir"] != str(folder):
        compilation_cache.reset_cache()  # JAX would go on with a folder that it has opened
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # An entry that is unreadable or does not fit on the disk costs a compilation and nothing else.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry", UserWarning)


def _make_private(root: Path) -> Path:
    """The folder of this machine type within ``root``, both made where missing and both the user's own."""
    machine = root / machine_name()
    for folder in (*reversed(root.parents), root, machine):
        if not os.path.lexists(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
        if folder in (root, machine):
            check_private(folder)
    if not os.access(machine, os.W_OK | os.X_OK):
        raise PermissionError(f"{machine} cannot be written")
    return machine


def _machines(root: Path) -> list[Path]:
    with os.scandir(root) as found:
        return [Path(e.path) for e in found if e.name.startswith(_MACHINE) and e.is_dir(follow_symlinks=False)]


def _files(root: Path) -> list[tuple[Path, os.stat_result]]:
    """The cache's own regular files with their status, none where the folder does not exist yet."""
    return [(path, found) for path, found in _entries(root) if stat.S_ISREG(found.st_mode)]


def _entries(root: Path) -> list[tuple[Path, os.stat_result]]:
    """What is called as the cache's own files are, of whatever kind."""
    try:
        check_private(root)
    except FileNotFoundError:
        return []
    return [entry for machine in _machines(root) for entry in _entries_of(machine)]


def _entries_of(machine: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for folder, _, names in os.walk(machine):  # does not follow links
        autotuned = _AUTOTUNED in Path(folder).relative_to(machine).parts
        for name in names:
            if autotuned or name.endswith((_PROGRAM, "-atime")):
                with contextlib.suppress(FileNotFoundError):  # another process removed it
                    yield (path := Path(folder, name)), os.lstat(path)


def _tend(root: Path) -> None:
    """Drops what is no regular file, programs cut short, and those unused for longest beyond ``SIZE_LIMIT``."""
    mark, since, settled = root / _TENDED, 0.0, time.time() - _SETTLED
    with contextlib.suppress(FileNotFoundError):
        since = mark.stat().st_mtime
    files = []
    for path, found in _entries(root):
        irregular = not stat.S_ISREG(found.st_mode)  # JAX would wait for a FIFO
        new = since < found.st_mtime <= settled and path.name.endswith(_PROGRAM)
        if irregular or (new and _is_cut_short(path)):
            path.unlink(missing_ok=True)
        else:
            files.append((max(found.st_atime, found.st_mtime), found.st_size, path))
    excess = sum(size for _, size, _ in files) - SIZE_LIMIT
    for _, size, path in sorted(files):
        if excess <= 0:
            break
        path.unlink(missing_ok=True)
        excess -= size
    with contextlib.suppress(FileNotFoundError):  # another process cleared the cache in between
        mark.touch(mode=0o600)
        os.utime(mark, (settled, settled))


def _is_cut_short(path: Path) -> bool:
    """Whether an entry is empty or its zlib stream has no end. Zstandard, where JAX uses it, is left to JAX."""
    stream = zlib.decompressobj()
    try:
        with open_regular(path) as file:
            content = file.read(_PIECE)
            if content[:1] != b"\x78":
                return not content
            while content and not stream.eof:
                stream.decompress(content, _PIECE)  # no more of it is kept
                content = stream.unconsumed_tail or file.read(_PIECE)
    except FileNotFoundError:
        return False
    except zlib.error:
        return True
    return not stream.eof
