"""States of a long training on disk, so that an interrupted run goes on where it was."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from rnp_jax.card import beside
from rnp_jax.config import to_plain
from rnp_jax.errors import ConfigError, Interrupted
from rnp_jax.pipeline.run_log import EpochBars, RunLog
from rnp_jax.store import load_tree, remove_tree, save_tree

STATES = ".training"
"""What the folder of saved states is called, in place of a checkpoint's suffix."""

SAVE_EVERY = 60.0
"""Seconds between two savings, at the end of an epoch."""

State = TypeVar("State")


class SavedStates:
    """The states in one folder, each in a folder of its own named by the epochs it has seen.

    A state is a named tuple of arrays with the fields ``epoch`` and ``key``; ``settings`` are those of the run, and a
    state of other settings is refused.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.folder = folder
        self._settings = settings
        self._saved = time.perf_counter()

    def list(self) -> list[Path]:
        """The saved states, ascending."""
        return sorted(
            (path for path in self.folder.glob("*") if path.name.isdecimal()), key=lambda path: int(path.name)
        )

    def save(self, state: Any) -> None:
        """Saves, if ``SAVE_EVERY`` seconds have passed since it last did."""
        if time.perf_counter() - self._saved < SAVE_EVERY:
            return
        leaves = jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))
        earlier, path = self.list(), self.folder / str(state.epoch)
        save_tree(path, {str(i): leaf for i, leaf in enumerate(leaves)}, self._settings, overwrite=True)
        for old in earlier:  # removed last, so that a whole state is there whenever the run is killed
            if old != path:
                remove_tree(old)
        self._saved = time.perf_counter()

    def resume(self, wanted: bool, start: Callable[[], State], epochs: int, say: Callable[[str], None]) -> State | None:
        """The last saved state if it is wanted and there; ``start`` gives one of its structure.

        It says how many of all ``epochs`` are done.

        Raises:
          ConfigError: it is of a run with other settings.
          CheckpointError: it cannot be read.
        """
        if not wanted:
            return None
        if not (found := self.list()):
            say(f"no saved state in {self.folder}: starting with the first epoch")
            return None
        state = self._load(found[-1], start())
        done = int(state.epoch)
        say(f"continuing after epoch {done} of {epochs}: {done / max(epochs, 1):.0%} is done already")
        return state

    def _load(self, folder: Path, like: Any) -> Any:
        tree, stored = load_tree(folder)
        changed = sorted(name for name in self._settings if stored.get(name) != self._settings[name])
        if changed:
            raise ConfigError(
                f"{folder} was saved by a run with different {', '.join(changed)}; use the same options, or remove it"
            )
        structure = jax.tree.structure(like._replace(key=jax.random.key_data(like.key)))
        state = jax.tree.unflatten(structure, [jnp.asarray(tree[str(i)]) for i in range(structure.num_leaves)])
        return state._replace(key=jax.random.wrap_key_data(state.key))

    @contextlib.contextmanager
    def going_on(
        self, wanted: bool, start: Callable[[], State], epochs: int, log: RunLog
    ) -> Iterator[tuple[State | None, EpochBars]]:
        """What ``resume`` gives, and bars for the epochs.

        Raises:
          Interrupted: Ctrl-C, with where the last state is.
        """
        state: Any = self.resume(wanted, start, epochs, log.say)
        try:
            with log.epochs(0 if state is None else int(state.epoch)) as bars:
                yield state, bars
        except KeyboardInterrupt:
            raise Interrupted(self.tell()) from None

    def tell(self) -> str:
        """What is kept, and how to go on."""
        if not (found := self.list()):
            return f"no state is saved yet (one is every {SAVE_EVERY:.0f} s), so the same command begins again"
        return f"the state after epoch {found[-1].name} is in {self.folder}; --resume continues from it"

    def remove(self) -> None:
        """Removes them all, once the run is finished."""
        remove_tree(self.folder)


def open_states(out: str, options: Any) -> SavedStates:
    """The states of the training with these options that writes the checkpoint ``out``."""
    settings = {name: value for name, value in to_plain(options).items() if name not in ("resume", "out")}
    return SavedStates(beside(out, STATES), settings)
