"""Namespaces of the lab's own, so that nothing of it can be left behind.

The lab runs as the first process of a PID namespace, with a network and a mount namespace
beside it. When that process ends, in whatever way, the kernel ends all others and frees
their networks and the memory their files are in. Ctrl-C and SIGTERM reach it through the
parent that stays outside; a parent that is killed takes it along.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Callable

_LIBC = ctypes.CDLL(None, use_errno=True)
# linux/sched.h, sys/mount.h, sys/prctl.h
_NEW_MOUNTS, _NEW_PIDS, _NEW_NETWORK = 0x00020000, 0x20000000, 0x40000000
_PRIVATE, _RECURSIVE = 1 << 18, 1 << 14
_SET_PARENT_DEATH_SIGNAL = 1
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# What lies in memory: containers/image keeps its locks there as well.
MEMORY = Path("/dev/shm")

# The exit code where the machine does not allow it.
IMPOSSIBLE = 3


class Interrupted(BaseException):
    """The lab was told to stop."""


def _check(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(kind: str, target: str, flags: int = 0, options: str = "") -> None:
    result = _LIBC.mount(b"lab", target.encode(), kind.encode(), flags, options.encode())
    _check(f"mount {kind} on {target}", result)


def enter_network(path: str) -> None:
    """Moves the calling thread into the network namespace at `path`."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(f"setns {path}", _LIBC.setns(handle, _NEW_NETWORK))
    finally:
        os.close(handle)


def run(work: Callable[[], int], memory: int) -> int:
    """Runs `work` inside, with `memory` bytes of files under `MEMORY`; its exit code."""
    _check("unshare", _LIBC.unshare(_NEW_PIDS))
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
            for number in _FORWARDED:
                signal.signal(number, _interrupt)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
            code = work() if _settled(memory) else IMPOSSIBLE
        except Interrupted:
            print("hack/lab.sh: interrupted", file=sys.stderr)
            code = 130
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    for number in _FORWARDED:
        signal.signal(number, lambda number, _: os.kill(child, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) & 0xFF


def _interrupt(_number: int, _frame: object) -> None:
    # Ctrl-C comes twice, from the terminal and from the parent; once is enough.
    for number in _FORWARDED:
        signal.signal(number, signal.SIG_IGN)
    raise Interrupted


def _settled(memory: int) -> bool:
    try:
        _settle(memory)
    except (OSError, subprocess.CalledProcessError) as failure:
        print(f"hack/lab.sh: no namespaces here: {failure}", file=sys.stderr)
        return False
    return True


def _settle(memory: int) -> None:
    _check("unshare", _LIBC.unshare(_NEW_MOUNTS | _NEW_NETWORK))
    _mount("", "/", _PRIVATE | _RECURSIVE)
    _mount("proc", "/proc")
    _mount("tmpfs", str(MEMORY), options=f"size={memory},mode=1777")
    # `ip netns` keeps its names here: these are the lab's alone.
    os.makedirs("/run/netns", exist_ok=True)
    _mount("tmpfs", "/run/netns")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
