"""CPU time and memory of child processes, including their descendants."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import psutil

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU and memory of all processes since the measurement began.

    `cpu_percent` is in percent of one core, averaged over `window_s`; `rss_mb` and `pss_mb` are the peaks in
    MiB. RSS counts a page shared by several processes once for each, PSS splits it among them. Each dict
    has one entry per process name and one named "total", which for memory is the peak of the sum.
    """

    window_s: float
    cpu_percent: dict[str, float]
    rss_mb: dict[str, float]
    pss_mb: dict[str, float]


@dataclass(slots=True)
class _Account:
    cpu_s: float = 0.0
    peak_rss: int = 0
    peak_pss: int = 0


@dataclass(slots=True)
class UsageMeter:
    """Meter of processes: call `sample` about once a second, `restart` to begin a new measurement.

    Descendants are found by POSIX session: each child of the supervisor is a session leader.
    """

    pss_every_s: float = 5.0  # PSS is slow to read
    _began_s: float | None = None
    _last_s: float = 0.0
    _pss_due_s: float = 0.0
    _accounts: dict[str, _Account] = field(default_factory=dict)
    _seen: dict[int, tuple[psutil.Process, float]] = field(default_factory=dict)
    _peak_rss: int = 0
    _peak_pss: int = 0

    def restart(self, sessions: Mapping[int, str], now: float) -> None:
        """Discards the measurement and begins a new one at `now` (monotonic seconds)."""
        self._accounts.clear()
        self._peak_rss = self._peak_pss = 0
        self._began_s = None
        self._pss_due_s = now
        self.sample(sessions, now)
        for account in self._accounts.values():
            account.cpu_s = 0.0

    def sample(self, sessions: Mapping[int, str], now: float, *, force_pss: bool = False) -> None:
        """Takes a sample; `sessions` maps a pid (of a session leader, or of this process) to its name."""
        if self._began_s is None:
            self._began_s = now
            self._pss_due_s = now
        self._last_s = now
        with_pss = force_pss or now >= self._pss_due_s
        if with_pss:
            self._pss_due_s = now + self.pss_every_s
        rss: dict[str, int] = {}
        pss: dict[str, int] = {}
        alive: dict[int, tuple[psutil.Process, float]] = {}
        for pid, name in _members(sessions):
            process, known_cpu_s = self._seen.get(pid) or (None, 0.0)
            try:
                if process is None or not process.is_running():
                    process, known_cpu_s = psutil.Process(pid), 0.0
                with process.oneshot():
                    times = process.cpu_times()
                    rss[name] = rss.get(name, 0) + int(process.memory_info().rss)
                if with_pss:
                    pss[name] = pss.get(name, 0) + _pss_bytes(pid)
            except psutil.Error:
                continue
            cpu_s = float(times.user + times.system)
            self._accounts.setdefault(name, _Account()).cpu_s += max(0.0, cpu_s - known_cpu_s)
            alive[pid] = (process, cpu_s)
        self._seen = alive
        for name, size in rss.items():
            account = self._accounts[name]
            account.peak_rss = max(account.peak_rss, size)
        for name, size in pss.items():
            account = self._accounts[name]
            account.peak_pss = max(account.peak_pss, size)
        self._peak_rss = max(self._peak_rss, sum(rss.values()))
        self._peak_pss = max(self._peak_pss, sum(pss.values()))

    def usage(self) -> Usage:
        """Use up to the last sample."""
        window_s = self._last_s - self._began_s if self._began_s is not None else 0.0
        scale = 100.0 / window_s if window_s > 0.0 else 0.0
        cpu = {name: account.cpu_s * scale for name, account in sorted(self._accounts.items())}
        rss = {name: account.peak_rss / MIB for name, account in sorted(self._accounts.items())}
        pss = {name: account.peak_pss / MIB for name, account in sorted(self._accounts.items())}
        return Usage(
            window_s=window_s,
            cpu_percent={**cpu, "total": sum(cpu.values())},
            rss_mb={**rss, "total": self._peak_rss / MIB},
            pss_mb={**pss, "total": self._peak_pss / MIB},
        )


def _members(sessions: Mapping[int, str]) -> list[tuple[int, str]]:
    own = os.getpid()
    found = [(own, sessions[own])] if own in sessions else []
    for pid in psutil.pids():
        try:
            name = sessions.get(os.getsid(pid))
        except OSError:
            continue
        if name is not None and pid != own:
            found.append((pid, name))
    return found


def _pss_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 0
