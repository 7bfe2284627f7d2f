"""Run as a program of its own, by `sandbox.py`: confines itself, then executes code of a model.

Reads JSON from the standard input: program, token, limits. Writes the token and the verdict to the
file descriptor that is its argument, so that code which only ends its process has not passed.
Imports the standard library alone: it is started once for each program.

Two walls. The kernel's: Landlock leaves the folder it starts in and, to read, Python's own files;
seccomp leaves no sockets, processes, threads or other programs; limits of memory, time, files. In
front of it an audit hook, which tells what was tried, and ends the program then.
"""

from __future__ import annotations

import ctypes
import json
import os
import posix
import resource
import signal
import struct
import sys
from collections.abc import Iterator, Mapping, MutableMapping

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing it takes as long as all else
    from typing import Any, NoReturn

# -- what the kernel forbids ----------------------------------------------------------------------

_NO_NEW_PRIVILEGES, _SET_SECCOMP, _SECCOMP_FILTER = 38, 22, 2
_EPERM, _X32 = 1, 0x40000000
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
# Sockets; processes and threads; other programs; signals; looking into others; namespaces, mounts;
# what would go around the filter; handlers of signals and timers, which could put off the end.
_FORBIDDEN = {
    "x86_64": (
        0xC000003E,
        (
            *(41, 42, 53, 56, 57, 58, 435, 59, 322, 62, 200, 234, 101, 310, 311, 272, 308, 165),
            *(428, 321, 425, 250, 298, 323, 424, 434, 13, 14, 37, 38),
        ),
    ),
    "aarch64": (
        0xC00000B7,
        (
            *(198, 203, 199, 220, 435, 221, 281, 129, 130, 131, 117, 270, 271, 97, 268, 40),
            *(428, 280, 425, 219, 241, 282, 424, 434, 134, 135, 103),
        ),
    ),
}
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_RIGHTS_BY_VERSION = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute (shared libraries), read a file, list a folder


def _call(libc: Any, number: int, *arguments: Any) -> int:
    result = int(libc.syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return result


def forbid_files(libc: Any, writable: str, readable: list[str]) -> None:
    """Landlock: everything below `writable`, reading below `readable`; OSError without it."""
    version = _call(libc, _LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    rights = (1 << _RIGHTS_BY_VERSION[min(version, 5)]) - 1
    handled = struct.pack("Q", rights)
    ruleset = _call(libc, _LANDLOCK_CREATE, handled, ctypes.c_size_t(len(handled)), 0)
    for path, allowed in [(writable, rights), *((one, _READ) for one in readable)]:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", allowed, folder)
        _call(libc, _LANDLOCK_ADD, ruleset, 1, rule, 0)
        os.close(folder)
    _call(libc, _LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)


def forbid_system_calls(libc: Any) -> None:
    """seccomp: the calls of `_FORBIDDEN` fail with EPERM; OSError where it cannot be set."""
    architecture, numbers = _FORBIDDEN[os.uname().machine]
    load, jump_equal, jump_greater, end = 0x20, 0x15, 0x35, 0x06
    steps = [(load, 0, 0, 4), (jump_equal, 1, 0, architecture), (end, 0, 0, _KILL), (load, 0, 0, 0)]
    steps += [(jump_greater, 0, 1, _X32), (end, 0, 0, _ERRNO | _EPERM)]
    for number in numbers:
        steps += [(jump_equal, 0, 1, number), (end, 0, 0, _ERRNO | _EPERM)]
    steps.append((end, 0, 0, _ALLOW))
    program = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    head = struct.pack("HP", len(steps), ctypes.addressof(program))
    if libc.prctl(_SET_SECCOMP, _SECCOMP_FILTER, head, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def limit_resources(memory_bytes: int, seconds: int) -> None:
    limits = {
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_CPU: seconds + 1,
        resource.RLIMIT_FSIZE: 2**24,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_NPROC: 1,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))


# -- what the audit hook tells --------------------------------------------------------------------

_PROCESSES = frozenset(
    {
        *("os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "os.exec"),
        *("subprocess.Popen", "pty.spawn", "os.kill", "os.killpg", "signal.pthread_kill"),
    }
)
_CHANGES = frozenset(
    {
        *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link"),
        *("os.symlink", "os.truncate", "os.utime", "os.chdir", "os.listdir", "os.scandir"),
    }
)


class Guard:
    """Ends the process with the reason for which it was stopped."""

    def __init__(self, verdict_file: int, token: str, folder: str, readable: list[str]) -> None:
        self._file, self._token = verdict_file, token
        self._folder, self._readable = folder, tuple(f"{path}/" for path in readable)

    def end(self, verdict: str) -> NoReturn:
        os.write(self._file, f"{self._token}{verdict}".encode())
        os._exit(0)

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith("socket."):
            self.end("network")
        if event in _PROCESSES:
            self.end("processes")
        if event.startswith("ctypes."):
            self.end("native code")
        if event in ("os.putenv", "os.unsetenv"):
            self.end("environment")
        if event == "open":
            path, mode, flags = arguments
            writes = bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if not self._is_allowed(path, writes or any(c in (mode or "r") for c in "wax+")):
                self.end("files")
        elif event in _CHANGES:
            is_read = event in ("os.listdir", "os.scandir")
            for path in arguments:
                if isinstance(path, (str, bytes)) and not self._is_allowed(path, not is_read):
                    self.end("files")

    def _is_allowed(self, path: Any, writes: bool) -> bool:
        if not isinstance(path, (str, bytes)):
            return True  # a descriptor that is open already
        full = os.path.normpath(os.path.join(self._folder, os.fsdecode(path)))
        if f"{full}/".startswith(f"{self._folder}/"):
            return True
        return not writes and f"{full}/".startswith(self._readable)


class NoEnvironment(MutableMapping[str, str]):
    """In place of os.environ, which is empty here: to look at it is told."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def __getitem__(self, key: str) -> str:
        self._guard.end("environment")

    def __setitem__(self, key: str, value: str) -> None:
        self._guard.end("environment")

    def __delitem__(self, key: str) -> None:
        self._guard.end("environment")

    def __iter__(self) -> Iterator[str]:
        self._guard.end("environment")

    def __len__(self) -> int:
        self._guard.end("environment")


# -- the program ----------------------------------------------------------------------------------


def confine(limits: Mapping[str, int], folder: str, readable: list[str]) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "no_new_privs")
    limit_resources(limits["memory_bytes"], limits["seconds"])
    forbid_files(libc, folder, readable)
    forbid_system_calls(libc)


def main() -> None:
    task = json.loads(sys.stdin.buffer.read())
    folder, verdict_file = os.getcwd(), int(sys.argv[1])
    # Python's own files, and the shared libraries that its extension modules are linked with.
    places = [os.path.dirname(os.__file__), sys.prefix + "/lib", sys.base_prefix + "/lib"]
    places += ["/lib", "/lib64", "/usr/lib", "/usr/lib64"]
    readable = [os.path.realpath(path) for path in dict.fromkeys(places) if os.path.isdir(path)]
    guard = Guard(verdict_file, task["token"], folder, [*places, *readable])
    # From here on: for Python to start takes its own time.
    signal.setitimer(signal.ITIMER_REAL, task["limits"]["seconds"])
    try:
        confine(task["limits"], folder, readable)
    except (OSError, KeyError) as error:
        guard.end(f"unconfined: {error}")
    program = task["program"]
    sys.argv = [""]
    del task
    # Python sets LC_CTYPE where there is no locale.
    for module in (os, posix):
        vars(module)["environ"].clear()
    # In place of what is empty: a program that looks for it is told.
    vars(os)["environ"] = NoEnvironment(guard)
    sys.addaudithook(guard.audit)
    try:
        exec(compile(program, "program", "exec"), {"__name__": "__main__"})
    except MemoryError:
        guard.end("memory")
    except BaseException as error:
        is_thread = isinstance(error, RuntimeError) and "new thread" in str(error)
        guard.end("processes" if is_thread else f"failed: {type(error).__name__}")
    guard.end("passed")


if __name__ == "__main__":
    main()
