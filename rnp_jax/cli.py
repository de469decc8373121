"""``rnp-jax``: dispatch to the commands, errors as one line. Whatever computes is imported when a command runs."""

import contextlib
import importlib
import io
import os
import sys
from typing import Any

from rnp_jax.commands.table import COMMANDS, COMPILE_NOTHING, HOLD_NO_DEVICE, LISTINGS
from rnp_jax.errors import RnpError
from rnp_jax.help_cache import keep_help, read_help
from rnp_jax.process import keep_traceback, prepare_process
from rnp_jax.threads import take_threads
from rnp_jax.untrusted_text import spell_hidden

UNEXPECTED = 70
"""Exit status of an error that nobody foresaw, as sysexits.h has it."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Returns:
      The exit status: 0 well, 1 an error that the user can mend, 3 a result that does not support what was required
      of it, 70 an error that nobody foresaw, whose traceback is in a file, 130 interrupted.

    Raises:
      SystemExit: 2 for unusable arguments, 0 where help was asked for.
    """
    arguments, cached = _take_no_cache(sys.argv[1:] if arguments is None else arguments)
    try:
        prepare_process()
        status = _dispatch(take_threads(arguments), cached)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        _drop_output()
        return 1
    except (RnpError, OSError) as error:
        _tell(f"{type(error).__name__}: {error}")
        return error.status if isinstance(error, RnpError) else 1
    except KeyboardInterrupt:
        _tell("interrupted")
        return 130
    except Exception as error:  # a bug, or a machine that fails in a way of its own
        _tell(_tell_unexpected(error, arguments))
        return UNEXPECTED


def _tell(text: str) -> None:
    """One line on standard error; what standard output still holds is shown first, if it can be."""
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
    with contextlib.suppress(OSError):
        sys.stderr.write(f"rnp-jax: {spell_hidden(text)}\n")
        sys.stderr.flush()


def _tell_unexpected(error: Exception, arguments: list[str]) -> str:
    reason = " ".join(str(error).split())[:500]
    message = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    try:
        return f"unexpected {message}; please report it, with {keep_traceback(error, arguments)}"
    except OSError as unwritten:
        return f"unexpected {message}; its traceback cannot be kept ({unwritten})"


def _drop_output() -> None:
    """Has the interpreter write nothing more to standard output when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(arguments: list[str], cached: bool) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return 0 if arguments else 2
    if "-h" in arguments or "--help" in arguments:
        return _show_help(arguments)
    name, *rest = arguments
    if name in LISTINGS and "--list" in rest:
        _find(LISTINGS[name])()
        return 0
    run, options = _find("rnp_jax.commands.arguments:parse")(name, rest)
    if cached and name not in COMPILE_NOTHING:
        _find("rnp_jax.compilation:enable_cache")()
    if name not in HOLD_NO_DEVICE:
        _find("rnp_jax.compilation:check_platforms")()
    run(options)
    return 0


def usage() -> str:
    """The overview that ``rnp-jax --help`` prints."""
    lines = "\n".join(f"  {name:9} {what}" for name, (_, what) in COMMANDS.items())
    return (
        "usage: rnp-jax COMMAND [options]   (rnp-jax COMMAND --help lists them)\n\n"
        f"{lines}\n\n"
        "Each command takes --config FILE.yaml, a preset; options on the command line override it.\n"
        "Compiled programs are kept for later runs in ~/.cache/rnp_jax/programs, or in the folder that the variable\n"
        "RNP_JAX_CACHE_DIR of the environment names; --no-cache, or RNP_JAX_CACHE=off, goes without.\n"
        "--threads N has a processor compute with N threads; with 1, machines of a kind give the same bytes.\n"
    )


def _show_help(arguments: list[str]) -> int:
    """Prints a command's help page, which is made once and kept."""
    page = read_help(arguments)
    if page is None:
        shown = io.StringIO()
        try:
            with contextlib.redirect_stdout(shown):
                _find("rnp_jax.commands.arguments:parse")(arguments[0], arguments[1:])
        except SystemExit as stopped:
            page = shown.getvalue()
            if stopped.code:
                sys.stdout.write(page)
                raise
            keep_help(arguments, page)
    sys.stdout.write(page or "")
    return 0


def _find(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _take_no_cache(arguments: list[str]) -> tuple[list[str], bool]:
    return [each for each in arguments if each != "--no-cache"], "--no-cache" not in arguments
