"""Supervisor of child processes: starts, monitors, restarts and stops them.

Each child leads a session of its own, so that a terminal's Ctrl-C reaches only this process, which then lands
the swarm. Each has a status pipe (`CHIMERA_STATUS_FD`) and an output pipe, read only in `poll` and `stop`; no
other thread runs. If this process is killed, the kernel kills the children (PR_SET_PDEATHSIG), and writing
their next status line fails as well. The kernel sends that signal when the *thread* that started the child
ends: use a `Supervisor` from the main thread only.

Children that fly (`landing_s`) are not killed while they are in the air: writing a status line fails, they
land, and `guardian` ends what has not ended after that time. They ignore SIGTERM and SIGHUP, which a service
manager sends to every process of a service: this process lands them, and stops them with SIGINT.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from chimera_ros.records.status_line import STATUS_FD, LineSplitter, StatusDict, parse_status

from . import guardian, shared_memory
from .child_log import ChildLog
from .usage import Usage, UsageMeter

READ_BYTES = 256 * 1024  # from one pipe per round: a flood from one child must not starve the others
LINES_PER_POLL = 256  # status lines from one child per round; a child writes two per second
PIPE_BYTES = 256 * 1024
SAMPLE_EVERY_S = 1.0
EXIT_CHECK_S = 0.1  # where the kernel has no pidfd
LOG_BYTES = 4 * 1024 * 1024
CONTROL_SIGNALS = frozenset({signal.SIGTERM, signal.SIGUSR1, signal.SIGCHLD})  # children must receive these

# Without setpriv: the same with a bare interpreter. The parent may have died before prctl took effect.
_GUARD = (
    "import ctypes,os,sys;ctypes.CDLL(None).prctl(1,9,0,0,0);"
    "os.getppid()==int(sys.argv[1]) or os._exit(1);os.execvp(sys.argv[2],sys.argv[2:])"
)


# Before a child that flies. A shell can ignore signals, but not reset those that its caller ignores.
_SHIELD = ["/bin/sh", "-c", 'trap "" TERM HUP; exec "$@"', "sh"]


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A process to run. `env` is added to this process's environment; a value of None removes a variable."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str | None] = field(default_factory=dict)
    cwd: Path | None = None
    pass_fds: tuple[int, ...] = ()  # descriptors that it inherits


@dataclass(frozen=True, slots=True)
class StatusReceived:
    """A status line from a child. `process` is its name in `ChildSpec`, `status["process"]` its own claim."""

    process: str
    pid: int
    status: StatusDict


@dataclass(frozen=True, slots=True)
class ErrorLogged:
    """A child has written a line of severity ERROR or FATAL that it had not written before."""

    process: str
    text: str


@dataclass(frozen=True, slots=True)
class Exited:
    """A child has exited. `returncode` is negative for a signal; `expected` if it was stopped."""

    process: str
    pid: int
    returncode: int
    expected: bool
    killed: bool  # by SIGKILL, as it did not exit in time after SIGTERM
    uptime_s: float
    starts: int  # how often this process was started so far
    last_lines: tuple[str, ...]
    log_path: Path
    restart_in_s: float | None = None

    @property
    def reason(self) -> str:
        """How it ended, in a few words."""
        if self.returncode >= 0:
            return f"ended with status {self.returncode}"
        try:
            name = signal.Signals(-self.returncode).name
        except ValueError:
            name = f"signal {-self.returncode}"
        return f"was ended by {name}"


@dataclass(frozen=True, slots=True)
class Restarted:
    """A child that had exited was started again (`pid`), or could not be (`problem`)."""

    process: str
    pid: int | None
    starts: int
    problem: str = ""


Event = StatusReceived | ErrorLogged | Exited | Restarted
RestartPolicy = Callable[[Exited], float | None]  # seconds until restart, or None to leave it ended


class StartFailed(Exception):
    """A process could not be started; the text is one sentence for people."""


@dataclass(eq=False, slots=True)
class _Child:
    spec: ChildSpec
    popen: subprocess.Popen[bytes]
    status_fd: int
    output_fd: int
    pid_fd: int | None
    log: ChildLog
    started_s: float
    splitter: LineSplitter = field(default_factory=LineSplitter)
    open_fds: set[int] = field(default_factory=set)
    segments: set[str] = field(default_factory=set)
    expected: bool = False
    killed: bool = False


class Supervisor:
    """Runs child processes; the module describes how.

    `log_dir` receives `<name>.log` per child. `on_exit` decides about the restart of children that were not
    stopped. `own_name` is this process's own entry in `usage()`. `landing_s` is the time for children to land
    if this process dies in flight; None if they do not fly. Children inherit what this process ignores,
    signals that the supervisor itself uses excepted.
    """

    def __init__(
        self,
        log_dir: Path,
        *,
        on_exit: RestartPolicy | None = None,
        own_name: str = "chimera",
        log_max_bytes: int = LOG_BYTES,
        landing_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.log_dir = log_dir
        self.rejected_lines: dict[str, int] = {}  # malformed, oversized or too many, per process
        self._on_exit = on_exit
        self._own_name = own_name
        self._log_max_bytes = log_max_bytes
        self._clock = clock
        self._children: dict[str, _Child] = {}
        self._starts: dict[str, int] = {}
        self._restarts: dict[str, tuple[float, ChildSpec]] = {}
        self._last_lines: dict[str, tuple[str, ...]] = {}
        self._problems: list[str] = []  # of log files that are closed
        self._segments: set[str] = set()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._meter = UsageMeter()
        self._sample_due_s = clock()
        self._reaping = signal.getsignal(signal.SIGCHLD)
        if self._reaping is signal.SIG_IGN:  # the kernel would reap the children, their exit status with them
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._guardian = _start_guardian(landing_s) if landing_s is not None else None
        self._guard = _guard_argv() if self._guardian is None else []
        self._stop_signal = signal.SIGTERM
        if landing_s is not None and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._guard += _SHIELD
            self._stop_signal = signal.SIGINT
        self._in_air = False
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- starting ------------------------------------------------------------------------------------------

    def start(self, spec: ChildSpec) -> int:
        """Starts a process and returns its process id. Raises StartFailed."""
        if spec.name in self._children:
            raise StartFailed(f"process {spec.name} is already running")
        self._restarts.pop(spec.name, None)
        env = {**os.environ, "PYTHONUNBUFFERED": "1"}
        for key, value in spec.env.items():
            if value is None:
                env.pop(key, None)
            else:
                env[key] = value
        program = shutil.which(spec.argv[0], path=env.get("PATH")) if spec.argv else None
        if program is None:
            raise StartFailed(f"process {spec.name} cannot start: no program {spec.argv[:1]} is installed")
        with contextlib.ExitStack() as undo:
            try:
                status_read, status_write = _pipe(undo)
                output_read, output_write = _pipe(undo)
                _enlarge(status_read)
                env[STATUS_FD] = str(status_write)
                with _inherited(CONTROL_SIGNALS):
                    popen = subprocess.Popen(
                        [*self._guard, program, *spec.argv[1:]],
                        stdin=subprocess.DEVNULL,
                        stdout=output_write,
                        stderr=output_write,
                        env=env,
                        cwd=spec.cwd,
                        start_new_session=True,
                        pass_fds=(status_write, *spec.pass_fds),
                    )
            except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
                reason = getattr(error, "strerror", None) or error
                raise StartFailed(f"process {spec.name} cannot start: {reason}") from error
            undo.pop_all()
        os.close(status_write)
        os.close(output_write)
        child = _Child(
            spec=spec,
            popen=popen,
            status_fd=status_read,
            output_fd=output_read,
            pid_fd=_pid_fd(popen.pid),
            log=ChildLog(self.log_path(spec.name), self._log_max_bytes),
            started_s=self._clock(),
        )
        for fd in (status_read, output_read):
            os.set_blocking(fd, False)
            child.open_fds.add(fd)
            self._selector.register(fd, selectors.EVENT_READ, (child, fd))
        if child.pid_fd is not None:
            self._selector.register(child.pid_fd, selectors.EVENT_READ, (child, child.pid_fd))
        self._children[spec.name] = child
        self._starts[spec.name] = self._starts.get(spec.name, 0) + 1
        self._order(f"+{popen.pid}")
        return popen.pid

    def report_in_air(self, in_air: bool) -> None:
        """Say whether children fly at this moment; they are landed, not killed, if this process dies then."""
        if in_air != self._in_air:
            self._in_air = in_air
            self._order("air" if in_air else "ground")

    # -- looking -------------------------------------------------------------------------------------------

    def running(self) -> list[str]:
        """Names of the processes that run, in the order in which they were started."""
        return list(self._children)

    def pid(self, name: str) -> int | None:
        """Process id of a running process."""
        child = self._children.get(name)
        return child.popen.pid if child else None

    def log_path(self, name: str) -> Path:
        """Log file of a process."""
        return self.log_dir / f"{name}.log"

    def last_lines(self, name: str) -> tuple[str, ...]:
        """Last lines of output of a process, running or exited."""
        child = self._children.get(name)
        return child.log.last_lines() if child else self._last_lines.get(name, ())

    def problems(self) -> list[str]:
        """Failures of the log files themselves, one sentence each."""
        return [*self._problems, *(c.log.problem for c in self._children.values() if c.log.problem)]

    def restart_measuring(self) -> None:
        """Restarts the measurement of `usage`, for instance at take-off."""
        self._meter.restart(self._sessions(), self._clock())

    def usage(self) -> Usage:
        """Processor time and memory of every process since the measurement began."""
        self._sample(force=True)
        return self._meter.usage()

    def wake(self) -> None:
        """Makes a `poll` in progress return; callable from a signal handler or another thread."""
        if not self._closed:
            with contextlib.suppress(BlockingIOError):
                os.write(self._wake_write, b"\0")

    # -- the loop ------------------------------------------------------------------------------------------

    def poll(self, timeout_s: float) -> list[Event]:
        """Waits up to `timeout_s` for events; returns status lines, exits and restarts in order."""
        deadline = self._clock() + timeout_s
        while True:
            now = self._clock()
            wait_s = max(0.0, deadline - now)
            if any(child.pid_fd is None for child in self._children.values()):
                wait_s = min(wait_s, EXIT_CHECK_S)
            if self._restarts:
                wait_s = min(wait_s, max(0.0, min(due for due, _ in self._restarts.values()) - now))
            wait_s = min(wait_s, max(0.0, self._sample_due_s - now))
            ready = self._selector.select(wait_s)
            events, woken = self._handle(ready)
            events += self._restart_due()
            self._sample()
            if events or woken or self._clock() >= deadline:
                return events

    def stop(self, names: Iterable[str] | None = None, deadline_s: float = 8.0) -> list[Event]:
        """Signals the named processes (default: all) to end, SIGKILL to those left after `deadline_s`.

        Returns the events meanwhile, also those of other processes. Takes at most about a second more than
        `deadline_s`. No named process is restarted.
        """
        chosen = set(self._starts if names is None else names)
        for name in chosen:
            self._restarts.pop(name, None)
        targets = [child for name, child in self._children.items() if name in chosen]
        for child in targets:
            child.expected = True
            _signal_group(child, self._stop_signal)
        events: list[Event] = []
        end = self._clock() + deadline_s
        while self._any_left(targets) and (left := end - self._clock()) > 0:
            events += self.poll(min(left, 0.25))
        end = self._clock() + 1.0
        for child in targets:
            if self._children.get(child.spec.name) is child:
                child.killed = True
                _signal_group(child, signal.SIGKILL)
        while self._any_left(targets) and (left := end - self._clock()) > 0:
            events += self.poll(min(left, 0.1))
        return events

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Sends a signal to one process and its descendants."""
        child = self._children.get(name)
        if child is not None:
            _signal_group(child, number)

    def close(self, deadline_s: float = 8.0) -> list[Event]:
        """Stops all processes and removes the shared memory that they have left."""
        if self._closed:
            return []
        events = self.stop(deadline_s=deadline_s) if self._children or self._restarts else []
        self._closed = True
        self.clean_shared_memory()
        for child in list(self._children.values()):  # in uninterruptible sleep: give it up
            self._forget(child)
        if self._guardian is not None:
            with contextlib.suppress(OSError, subprocess.TimeoutExpired):
                self._guardian.communicate(timeout=1.0)
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
        if self._reaping is signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        return events

    def clean_shared_memory(self) -> list[str]:
        """Removes Fast DDS segments that exited children have left; returns their names."""
        removed = shared_memory.remove(self._segments)
        self._segments.clear()
        return removed

    # -- inside --------------------------------------------------------------------------------------------

    def _handle(self, ready: list[tuple[selectors.SelectorKey, int]]) -> tuple[list[Event], bool]:
        events: list[Event] = []
        woken = False
        ended: list[_Child] = []
        for key, _ in ready:
            if key.data is None:
                woken = True
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
                continue
            child, fd = key.data
            if fd == child.pid_fd:
                ended.append(child)
            elif fd in child.open_fds:
                events += self._read(child, fd)
        ended += [c for c in self._children.values() if c.pid_fd is None and _has_ended(c)]
        for child in ended:
            events += self._finish(child)
        return events, woken

    def _read(self, child: _Child, fd: int) -> list[Event]:
        """Reads once from one of the child's pipes."""
        try:
            data = os.read(fd, READ_BYTES)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(fd)
            child.open_fds.discard(fd)
            return []
        if fd == child.output_fd:
            return [ErrorLogged(child.spec.name, text) for text in child.log.feed(data)]
        events: list[Event] = []
        name = child.spec.name
        oversized = child.splitter.oversized
        lines = child.splitter.feed(data)
        rejected = child.splitter.oversized - oversized + max(0, len(lines) - LINES_PER_POLL)
        for line in lines[:LINES_PER_POLL]:
            status = parse_status(line)
            if status is None:
                rejected += 1
            else:
                events.append(StatusReceived(name, child.popen.pid, status))
        if rejected:
            self.rejected_lines[name] = self.rejected_lines.get(name, 0) + rejected
        return events

    def _finish(self, child: _Child) -> list[Event]:
        """Reaps a child that has exited: kills its descendants, reads its last output, plans its restart."""
        name = child.spec.name
        _signal_group(child, signal.SIGKILL)  # the child is not reaped yet, so its group is still its own
        returncode = child.popen.wait()
        events: list[Event] = []
        for _ in range(8):  # the pipes are bounded by the kernel; a surviving grandchild may go on writing
            for fd in sorted(child.open_fds):
                events += self._read(child, fd)
        events += self._forget(child)
        exited = Exited(
            process=name,
            pid=child.popen.pid,
            returncode=returncode,
            expected=child.expected,
            killed=child.killed,
            uptime_s=self._clock() - child.started_s,
            starts=self._starts[name],
            last_lines=self._last_lines[name],
            log_path=child.log.path,
        )
        if not child.expected and self._on_exit is not None:
            delay_s = self._on_exit(exited)
            if delay_s is not None:
                self._restarts[name] = (self._clock() + delay_s, child.spec)
                exited = replace(exited, restart_in_s=delay_s)
        return [*events, exited]

    def _forget(self, child: _Child) -> list[Event]:
        for fd in child.open_fds:
            self._selector.unregister(fd)
        if child.pid_fd is not None:
            self._selector.unregister(child.pid_fd)
            os.close(child.pid_fd)
        os.close(child.status_fd)
        os.close(child.output_fd)
        errors = child.log.close()
        if child.log.problem and child.log.problem not in self._problems:
            self._problems.append(child.log.problem)
        self._segments |= child.segments
        self._last_lines[child.spec.name] = child.log.last_lines()
        self._order(f"-{child.popen.pid}")
        self._children.pop(child.spec.name, None)
        return [ErrorLogged(child.spec.name, text) for text in errors]

    def _restart_due(self) -> list[Event]:
        now = self._clock()
        events: list[Event] = []
        for name, (due, spec) in list(self._restarts.items()):
            if now < due:
                continue
            del self._restarts[name]
            try:
                pid = self.start(spec)
                events.append(Restarted(name, pid, self._starts[name]))
            except StartFailed as error:
                events.append(Restarted(name, None, self._starts[name], str(error)))
        return events

    def _order(self, order: str) -> None:
        """Write an order to the guardian."""
        if self._guardian is not None and self._guardian.stdin is not None:
            with contextlib.suppress(OSError):  # it was killed
                self._guardian.stdin.write(order.encode() + b"\n")

    def _any_left(self, targets: Iterable[_Child]) -> bool:
        return any(self._children.get(child.spec.name) is child for child in targets)

    def _sessions(self) -> dict[int, str]:
        return {os.getpid(): self._own_name} | {c.popen.pid: name for name, c in self._children.items()}

    def _sample(self, force: bool = False) -> None:
        now = self._clock()
        if now < self._sample_due_s and not force:
            return
        self._sample_due_s = now + SAMPLE_EVERY_S
        with contextlib.suppress(OSError):  # no file descriptors left: measuring is no reason to end
            self._meter.sample(self._sessions(), now, force_pss=force)
        for child in self._children.values():
            child.segments |= shared_memory.segments_of(child.popen.pid)


def _start_guardian(landing_s: float) -> subprocess.Popen[bytes] | None:
    with contextlib.suppress(OSError):
        return subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__, repr(landing_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )
    return None


def _guard_argv() -> list[str]:
    setpriv = shutil.which("setpriv")
    if setpriv is not None:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            probe = [setpriv, "--pdeathsig", "KILL", setpriv, "--version"]
            if subprocess.run(probe, capture_output=True, timeout=5.0, check=False).returncode == 0:
                return [setpriv, "--pdeathsig", "KILL"]
    return [sys.executable, "-I", "-S", "-c", _GUARD, str(os.getpid())]


def _pid_fd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _has_ended(child: _Child) -> bool:
    """True if the child has exited; does not reap it."""
    try:
        result = os.waitid(os.P_PID, child.popen.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return result is not None


def _signal_group(child: _Child, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.popen.pid, number)


@contextlib.contextmanager
def _inherited(numbers: frozenset[int]) -> Iterator[None]:
    """What is started inside can receive these signals, even if they are ignored or blocked here."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ()) & numbers
    ignored = {number for number in numbers if signal.getsignal(number) is signal.SIG_IGN}
    old = {number: signal.getsignal(number) for number in blocked | ignored}
    for number in old:  # exec resets a signal that has a handler, not one that is ignored
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        for number, handler in old.items():
            signal.signal(number, handler)


def _pipe(undo: contextlib.ExitStack) -> tuple[int, int]:
    """A pipe whose ends `undo` closes."""
    ends = os.pipe2(os.O_CLOEXEC)
    for end in ends:
        undo.callback(os.close, end)
    return ends


def _enlarge(fd: int) -> None:
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
