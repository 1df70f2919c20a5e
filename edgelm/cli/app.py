"""The command ``edgelm``: finds the sub-command, and ends the process as every command's outcome asks.

Commands are imported when they are called, so that ``edgelm --help`` loads none of what they need.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import click

from edgelm import __version__
from edgelm.bundle.files import is_storage_error
from edgelm.cli import console
from edgelm.cli.help_page import HELP_NAMES, SUB_COMMANDS, examples
from edgelm.errors import CancelledError, EdgeLMError, MemoryLimitError, StorageError
from edgelm.runtime.usable_memory import address_limits_told

EXIT_UNEXPECTED = 1
EXIT_INTERRUPTED = 130

_ALIASES = {"ls": "list"}
_EXAMPLES = """
edgelm run smollm2 "Why is the sky blue?"
edgelm chat smollm2
edgelm list --all
"""


class CommandLine(click.Group):
    """The group of all commands; ``main`` never returns and never shows a traceback unasked."""

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Runs the command line and ends the process with its exit code."""
        arguments = list(sys.argv[1:] if args is None else args) or ["--help"]
        settings = {**extra, "standalone_mode": False}
        try:
            console.prepare_streams()
            with console.plain_warnings():
                code = _outcome(
                    lambda: super(CommandLine, self).main(arguments, prog_name or "edgelm", **settings),
                    traceback_wanted="--verbose" in arguments,
                )
        except KeyboardInterrupt:  # a second one, while the first or an error was being reported
            code = EXIT_INTERRUPTED
        sys.exit(code)

    def invoke(self, ctx: click.Context) -> Any:
        """Calls the sub-command; click itself would answer these two with exit code 1."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            console.silence_stdout()
            return ctx.exit(0)
        except (
            KeyboardInterrupt,
            CancelledError,
        ):  # runs are cancelled at an interrupt, and perhaps before it is raised
            if console.is_terminal(sys.stderr):
                console.say("")  # the prompt of the shell belongs below the terminal's ^C
            return ctx.exit(EXIT_INTERRUPTED)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands, in the order of the help page."""
        return [name for section in SUB_COMMANDS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports a command; None where there is none of that name."""
        name = _ALIASES.get(cmd_name, cmd_name)
        if name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"edgelm.cli.{name.replace('-', '_')}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Finds the command, or suggests near names."""
        name = args[0]
        command = self.get_command(ctx, name)
        if command is not None:
            return name, command, args[1:]
        if name.startswith("-"):
            return super().resolve_command(ctx, args)
        near = difflib.get_close_matches(name, [*self.list_commands(ctx), *_ALIASES], n=2)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; known are: {', '.join(self.list_commands(ctx))}"
        raise click.UsageError(f"there is no command {name!r:.80}{hint}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the table of commands, section by section, without importing them."""
        for section, commands in SUB_COMMANDS.items():
            with formatter.section(section):
                formatter.write_dl(list(commands.items()))


@click.command(cls=CommandLine, name="edgelm", epilog=examples(_EXAMPLES), context_settings=HELP_NAMES)
@click.version_option(__version__, prog_name="edgelm", message="%(prog)s %(version)s")
def app() -> None:
    """Run quantized language models on this machine, inside a memory limit.

    MODEL is a name (edgelm list --all), a bundle's folder, or hf:ORG/NAME. A model that is not there yet is fetched
    and converted first.
    """


def main() -> None:
    """The entry point of the package."""
    app.main()


def _outcome(call: Callable[[], object], *, traceback_wanted: bool) -> int:
    """Calls, reports what went wrong in one line, and returns the exit code."""
    debugging = bool(os.environ.get("EDGELM_DEBUG"))
    try:
        code = call()
        if sys.stdout is not None:
            sys.stdout.flush()
    except click.ClickException as error:
        console.error(_usage_message(error))
        return error.exit_code
    except click.Abort:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        console.silence_stdout()
        return 0
    except Exception as error:
        if debugging or (traceback_wanted and not isinstance(error, EdgeLMError)):
            traceback.print_exc()
        return _report(error)
    return code if isinstance(code, int) else 0


def _report(error: Exception) -> int:
    if isinstance(error, EdgeLMError):
        console.error(str(error))
        return error.exit_code
    if isinstance(error, OSError) and is_storage_error(error):
        console.error(f"{error.filename or 'cannot write'}: {error.strerror}")
        return StorageError.exit_code
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        console.error("too many files are open at a time; raise the limit (ulimit -n)")
        return EXIT_UNEXPECTED
    if isinstance(error, MemoryError):
        console.error(f"out of memory{address_limits_told()}")
        return MemoryLimitError.exit_code
    console.error(f"unexpected: {type(error).__name__}: {error} (EDGELM_DEBUG=1 shows where)")
    return EXIT_UNEXPECTED


def _usage_message(error: click.ClickException) -> str:
    message = error.format_message().rstrip(".")
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return f"{message[:1].lower()}{message[1:]} (see: {error.ctx.command_path} --help)"
    return message
