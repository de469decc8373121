"""Where things are kept between runs, and whether they are: compiled programs, and the help pages of commands."""

import os
import stat
from pathlib import Path

from rnp_jax.errors import ConfigError


def cache_folder() -> Path:
    """Where compiled programs are kept, whether or not it exists.

    Raises:
      ConfigError: there is neither a variable that names it nor a home folder.
    """
    if given := os.environ.get("RNP_JAX_CACHE_DIR"):
        return Path(given).absolute()
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the base directory specification has relative paths ignored
        base = os.path.expanduser("~/.cache")
    if not os.path.isabs(base):
        raise ConfigError("there is no home folder to keep compiled programs in: set HOME or RNP_JAX_CACHE_DIR")
    return Path(base, "rnp_jax", "programs")


def is_switched_on() -> bool:
    """Whether ``RNP_JAX_CACHE`` leaves the cache on, as it is by default.

    Raises:
      ConfigError: a value other than on and off.
    """
    value = os.environ.get("RNP_JAX_CACHE") or "on"
    if value not in ("on", "off"):
        raise ConfigError(f"RNP_JAX_CACHE is {value!r}; expected on or off")
    return value == "on"


def make_private(folder: Path) -> None:
    """Makes a folder in the cache's, where there is none, for the user alone.

    Raises:
      ConfigError: it or the folder that it is in may be written to by somebody else.
      OSError: it cannot be made.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    check_private(folder.parent)
    check_private(folder)


def check_private(folder: Path) -> None:
    """Refuses a folder through which anybody else could plant a program."""
    found = folder.lstat()
    fix = "name a folder of your own with RNP_JAX_CACHE_DIR, or go without with --no-cache"
    if stat.S_ISLNK(found.st_mode):
        raise ConfigError(f"the cache of compiled programs, {folder}, is a link; expected a folder: {fix}")
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"the cache of compiled programs, {folder}, is not a folder: {fix}")
    if found.st_uid != os.geteuid():
        raise ConfigError(f"the cache of compiled programs, {folder}, belongs to user {found.st_uid}: {fix}")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"others may write to the cache of compiled programs: run chmod go-w {folder}, or {fix}")
    for parent in folder.resolve().parents:
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise ConfigError(f"anybody may replace the cache of compiled programs, for {parent} is open to all: {fix}")
