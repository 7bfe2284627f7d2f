"""From a command line to a command: options and exit codes."""

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
    """A dataclass of options, and what is done with them."""

    options: type[Any]
    run: Callable[[Any], int]
    """Returns the exit code; ValueError or OSError for what the user can mend."""


def printed(function: Callable[[Any], str]) -> Callable[[Any], int]:
    """The `run` of a command that has a text to show."""

    def run(options: Any) -> int:
        print(function(options))
        return 0

    return run


def run(
    arguments: Sequence[str], default: Command, others: Mapping[str, Command], *, prog: str
) -> int:
    """Run the one of `others` that the first argument names, else `default`; the exit code.

    ValueError for wrong options, in one line.
    """
    command = default
    if arguments and arguments[0] in others:
        command = others[arguments[0]]
        prog, arguments = f"{prog} {arguments[0]}", arguments[1:]
    with errors_in_one_line():
        options = tyro.cli(command.options, args=arguments, prog=prog)
    return command.run(options)


def main(function: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run `function` on the process's arguments, and end the process with its exit code.

    2: bad input; 1: the build failed, or lost a worker; 130: interrupted.
    """
    try:
        code = function(sys.argv[1:])
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except (ValueError, OSError) as error:
        print(error_line(error), file=sys.stderr)
        code = 2
    except (BuildError, WorkerLost) as error:
        print(error, file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        code = 130
    sys.exit(code)
