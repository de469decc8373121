"""``rnp-jax cache``: the compiled programs that are kept for later runs."""

from dataclasses import dataclass

from rnp_jax.compilation import CacheState, clear_cache, describe_cache, is_switched_on
from rnp_jax.console import open_console


@dataclass(frozen=True)
class CacheOptions:
    """Show where compiled programs are kept, how many there are and how much space they take.

    Attributes:
      clear: remove all compiled programs.
    """

    clear: bool = False


def run(options: CacheOptions) -> CacheState:
    """Prints the state, and with ``clear`` removes what it speaks of.

    Raises:
      ConfigError: the folder is not the user's own.
      OSError: a program cannot be removed.
    """
    state = clear_cache() if options.clear else describe_cache()
    console = open_console(soft_wrap=True)
    console.print(f"folder    {state.folder}{'' if is_switched_on() else ' (off: RNP_JAX_CACHE=off)'}")
    console.print(f"programs  {state.programs:,}{' removed' if options.clear else ''}")
    console.print(f"size      {state.size / 2**20:,.1f} MiB")
    return state
