"""The processes of a run and who ends with whom: bash, DeepSpeed's runner and launch, the ranks.

DeepSpeed's processes hand on neither their own end nor every signal: a killed one leaves the ranks
training, and the runner calls it success. So each rank watches those above it, and `launch.sh`
sends signals to the ranks themselves and ends what is left.

    python recipes/process_tree.py signal TERM RUNNER    # to the ranks; RUNNER is a process number
    python recipes/process_tree.py end RUNNER            # all processes of its process group
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Collection, Mapping, Sequence

import psutil  # one of DeepSpeed's requirements

TOP_VARIABLE = "LLAMA_DS_TOP_PROCESS"
"""Number of the process that a user has started: bash, or the quickstart."""

_LAUNCH = "deepspeed.launcher.launch"
_RUNNER_NAMES = {"deepspeed.launcher.runner", "deepspeed"}
_LAUNCHER_NAMES = {_LAUNCH, *_RUNNER_NAMES, "torch.distributed.run", "torchrun"}
# As long as DeepSpeed and torchrun give a rank after SIGTERM.
GRACE_SECONDS = 30.0
_POLL_SECONDS = 0.5


# -- in a rank ------------------------------------------------------------------------------------


def end_with_launchers(environment: Mapping[str, str]) -> None:
    """From now on, save a checkpoint and end (SIGTERM) when a launcher of this rank has gone.

    After `GRACE_SECONDS` the rank kills itself: it may wait for one that ended before it. A thread
    waits for it, since the system's own notice (PR_SET_PDEATHSIG) tells of the parent only.

    DeepSpeed's runner would end with 0 where its child, launch, was killed. Where nobody stands
    above it who knows better (`launch.sh` does), the rank kills it too, so that its exit code is
    the one of a killed process (137): it takes a good part of a second to end by itself.
    """
    launchers = launchers_of(psutil.Process(), environment)
    if _is_orphan(launchers, environment):
        sys.exit("error: the launcher has ended before this rank began")
    if launchers:
        # Found out now: later every moment counts.
        runner = launchers[-1] if _is_started_as(launchers[-1], _RUNNER_NAMES) else None
        arguments = (launchers, runner)
        threading.Thread(target=_watch, args=arguments, name="launchers", daemon=True).start()


def launchers_of(process: psutil.Process, environment: Mapping[str, str]) -> list[psutil.Process]:
    """The processes above `process` up to the topmost launcher, nearest first; none without one.

    What lies above a launcher, a shell or a terminal, may end while training goes on.
    """
    above = process.parents()
    top = environment.get(TOP_VARIABLE)
    found = [
        i
        for i, one in enumerate(above)
        if str(one.pid) == top or _is_started_as(one, _LAUNCHER_NAMES)
    ]
    return above[: found[-1] + 1] if found else []


def _is_started_as(process: psutil.Process, names: Collection[str]) -> bool:
    """Whether it runs one of these modules or commands."""
    words = _command(process)[:5]  # python -u -m MODULE, or python FILE
    return any(os.path.basename(word) in names for word in words)


def _command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:  # it has ended, or belongs to another user
        return []


def _is_orphan(launchers: Sequence[psutil.Process], environment: Mapping[str, str]) -> bool:
    """Whether a launcher was killed while this rank started, which then has another parent."""
    if "CROSS_SIZE" not in environment:  # set by deepspeed.launcher.launch alone
        return False
    if not any(_LAUNCH in _command(launcher) for launcher in launchers):
        return True
    # On other machines the top process is none of those above.
    top = environment.get(TOP_VARIABLE)
    is_one_machine = environment["CROSS_SIZE"] == "1"
    return bool(top) and is_one_machine and top not in {str(one.pid) for one in launchers}


def _watch(launchers: Sequence[psutil.Process], runner: psutil.Process | None) -> None:
    _wait_for_one_to_end(launchers)
    if runner is not None:
        _send(runner, signal.SIGKILL)
    print("error: the launcher has ended; saving a checkpoint and ending", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


def _wait_for_one_to_end(processes: Sequence[psutil.Process]) -> None:
    """At once where the system has process descriptors, Linux 5.3 and later."""
    ends = select.poll()
    with contextlib.suppress(OSError):
        for process in processes:
            ends.register(os.pidfd_open(process.pid), select.POLLIN)
    while all(_is_alive(process) for process in processes):
        if ends.poll(1000 * _POLL_SECONDS):
            return


def _is_alive(process: psutil.Process) -> bool:
    """Not so for a process that has ended and whose parent has not asked for its exit code."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


# -- for launch.sh --------------------------------------------------------------------------------


def signal_ranks(number: signal.Signals, runner: int) -> str:
    """Send a signal to the ranks of this machine, or SIGTERM to the launcher where there are none.

    Returns who got it, "ranks" or "launcher".

    Not through DeepSpeed's launch, which takes whatever it gets for SIGTERM and kills each rank 30
    seconds later, in the middle of a large checkpoint. Over several machines its runner does that.
    """
    try:
        below = psutil.Process(runner).children(recursive=True)
    except psutil.NoSuchProcess:
        return "launcher"
    launches = [process for process in below if _LAUNCH in _command(process)[:5]]
    ranks = [rank for launch in launches for rank in launch.children()]
    for process in ranks or launches or [psutil.Process(runner)]:
        _send(process, number if ranks else signal.SIGTERM)
    return "ranks" if ranks else "launcher"


def end_group(group: int) -> None:
    """SIGTERM to all processes of a process group; SIGKILL to those that do not end of it."""
    members = [process for process in psutil.process_iter() if _group_of(process) == group]
    for process in members:
        _send(process, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while any(_is_alive(process) for process in members) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS / 5)
    for process in members:
        _send(process, signal.SIGKILL)


def _group_of(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except OSError:
        return None


def _send(process: psutil.Process, number: signal.Signals) -> None:
    with contextlib.suppress(psutil.Error):
        process.send_signal(number)


def _main(arguments: Sequence[str]) -> None:
    job, *rest = arguments
    if job == "signal":
        print(signal_ranks(signal.Signals[f"SIG{rest[0]}"], int(rest[1])))
    else:
        end_group(int(rest[0]))


if __name__ == "__main__":
    _main(sys.argv[1:])
