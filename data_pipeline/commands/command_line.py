"""Command-line dispatch: subcommands, option parsing and exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import tyro

from data_pipeline.build.build_corpus import BuildError
from data_pipeline.commands.one_line_errors import error_line, errors_in_one_line
from data_pipeline.executors.executor import WorkerLost


@dataclass(frozen=True)
class Command:
    """A subcommand: its dataclass of options, and the function to run."""

    options: type[Any]
    run: Callable[[Any], int]
    """Returns the exit code; ValueError or OSError for errors that the user can fix."""


def printed(function: Callable[[Any], str]) -> Callable[[Any], int]:
    """Makes the `run` of a command whose function returns text to print."""

    def run(options: Any) -> int:
        print(function(options))
        return 0

    return run


def run(
    arguments: Sequence[str], default: Command, others: Mapping[str, Command], *, prog: str
) -> int:
    """Run the subcommand of `others` named by the first argument, else `default`; returns the exit
    code.

    ValueError for invalid options, in one line.
    """
    command = default
    if arguments and arguments[0] in others:
        command = others[arguments[0]]
        prog, arguments = f"{prog} {arguments[0]}", arguments[1:]
    with errors_in_one_line():
        options = tyro.cli(command.options, args=arguments, prog=prog)
    return command.run(options)


def main(function: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run `function` on the process's arguments, and exit with its code.

    2: invalid input; 1: the build failed, or lost a worker; 130: interrupted.
    """
    try:
        code = function(sys.argv[1:])
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (ValueError, OSError) as error:
        print(error_line(error), file=sys.stderr)
        code = 2
    except (BuildError, WorkerLost) as error:
        print(error, file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("interrupted; rerun the command to resume", file=sys.stderr)
        code = 130
    sys.exit(code)
