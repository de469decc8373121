"""``rnp-jax``: dispatch to the commands, errors as one line. Whatever computes is imported when a command runs."""

import contextlib
import importlib
import io
import os
import re
import shutil
import sys
import textwrap
from pathlib import Path
from typing import Any

from rnp_jax.checks import take_option
from rnp_jax.commands.table import COMMANDS, COMPILE_NOTHING, HAVE_NO_LOG, HOLD_NO_DEVICE, LISTINGS
from rnp_jax.errors import ConfigError, RnpError
from rnp_jax.gpu_flags import take_gpu_flags
from rnp_jax.help_cache import keep_help, read_help
from rnp_jax.log_style import LogStyle, log_in, take_style
from rnp_jax.process import keep_traceback, prepare_process
from rnp_jax.threads import take_threads
from rnp_jax.untrusted_text import spell_hidden

UNEXPECTED = 70
"""Exit status of an error that nobody foresaw, as sysexits.h has it."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command.

    Returns:
      The exit status: 0 well, 1 an error that the user can mend, 3 a result that does not support what was required
      of it, 4 and 5 further verdicts of `check`, 70 an error that nobody foresaw, whose traceback is in a file, 130
      interrupted.

    Raises:
      SystemExit: 2 for unusable arguments, 0 where help was asked for.
    """
    arguments, cached = _take_no_cache(sys.argv[1:] if arguments is None else arguments)
    style = LogStyle()
    try:
        prepare_process()
        arguments, style = _take_style(take_gpu_flags(take_threads(arguments)))
        with log_in(style):
            status = _dispatch(arguments, cached)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        _drop_output()
        return 1
    except (RnpError, OSError) as error:
        status = error.status if isinstance(error, RnpError) else 1
        text = _tell_refused(error, arguments) if isinstance(error, OSError) else str(error)
        if isinstance(error, ConfigError):
            text = _find("rnp_jax.commands.spelling:spell_options")(text, arguments)
        return _end(status, f"{type(error).__name__}: {text}", error, style)
    except KeyboardInterrupt as stopped:
        return _end(INTERRUPTED, ": ".join(("interrupted", *map(str, stopped.args))), stopped, style)
    except Exception as error:  # a bug, or a machine that fails in a way of its own
        return _end(UNEXPECTED, _tell_unexpected(error, arguments), error, style)


def _end(status: int, text: str, error: BaseException, style: LogStyle) -> int:
    """Says why the command ends with this status: a line on standard error, and one of the log if that is of JSON."""
    if style.json:
        with contextlib.suppress(OSError):
            _find("rnp_jax.pipeline.log_lines:write_line")("error", kind=type(error).__name__, text=text, status=status)
    _tell(text)
    return status


def _tell(text: str) -> None:
    """One line on standard error; what standard output still holds is shown first, if it can be."""
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
    with contextlib.suppress(OSError):
        sys.stderr.write(f"rnp-jax: {spell_hidden(text)}\n")
        sys.stderr.flush()


def _tell_refused(error: OSError, arguments: list[str]) -> str:
    """What the system refused, and the option to mend where that is the place to write to."""
    if not error.filename or not error.strerror:
        return str(error)
    out = take_option(arguments, "--out")[1]
    refused, place = Path(os.fsdecode(error.filename)), Path(out or "runs")
    if refused == place or refused in place.parents or place in refused.parents:
        return f"{refused}: cannot be written: {error.strerror}; choose another place with --out"
    return f"{refused}: {error.strerror}"


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
    lines = "\n".join(f"  {name:10} {what}" for name, (_, what) in COMMANDS.items())
    return (
        "usage: rnp-jax COMMAND [options]   (rnp-jax COMMAND --help lists them)\n\n"
        f"{lines}\n\n"
        "Each command takes --config FILE.yaml, a preset; options on the command line override it.\n"
        "Compiled programs are kept for later runs in ~/.cache/rnp_jax/programs, or in the folder that the variable\n"
        "RNP_JAX_CACHE_DIR of the environment names; --no-cache, or RNP_JAX_CACHE=off, goes without.\n"
        "--threads N computes with N processor threads; with 1, machines of a kind give the same bytes.\n"
        "--gpu graphs launches whole loops of a GPU at once; --gpu deterministic repeats its results to the byte.\n"
        "--quiet shows only warnings and the outcome; --log-format json writes one JSON object a line, for scripts.\n"
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
            page = _lay_out(page)
            keep_help(arguments, page)
    sys.stdout.write(page or "")
    return 0


def _lay_out(page: str) -> str:
    """A help page whose paragraphs fit the terminal, without blanks at the ends of lines and marks of docstrings."""
    width, page = shutil.get_terminal_size().columns, page.replace("``", "`").replace("(default: )", "(default: none)")
    own = {name.rpartition(".")[2] for name in re.findall(r"--([\w.-]+)", page)}
    page = re.sub(r"`(\w+)`", lambda told: f"`{each}`" if (each := told[1].replace("_", "-")) in own else told[0], page)
    lines = (line.rstrip() for line in page.splitlines())
    wrapper = textwrap.TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    lines = (wrapper.fill(line) if len(line) > width else line for line in lines)
    return re.sub("\n{3,}", "\n\n", "\n".join(lines) + "\n")


def _find(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _take_style(arguments: list[str]) -> tuple[list[str], LogStyle]:
    """What is left of the arguments, and how the log is told, if the command has one."""
    has_log = arguments[:1] and arguments[0] in COMMANDS and arguments[0] not in HAVE_NO_LOG
    return take_style(arguments) if has_log else (arguments, LogStyle())


def _take_no_cache(arguments: list[str]) -> tuple[list[str], bool]:
    return [each for each in arguments if each != "--no-cache"], "--no-cache" not in arguments
