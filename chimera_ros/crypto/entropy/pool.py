"""Entropy pool for epoch seeds: the operating system's random numbers mixed with those of other sources.

`EntropyPool` buffers the output of hardware, QRNG and QKD, each bounded and behind its health tests. Drawing
never blocks: the input of an empty source is empty. An input is used once. No input can weaken the others,
because the seed is SHA3-512 over all of them, length-prefixed.

A simulated source (QRNG and QKD on Aer) is a seeded computation: it passes every health test and adds no
entropy. It is counted as zero and reported as simulated.

Not handled here: reading devices and running circuits (`chimera_ros/quantum/entropy_feed.py`).
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from threading import Lock
from typing import Any, Final

import numpy as np

from ..effects import SecurityAlarm
from ..encoding import fields
from ..errors import EntropyError
from ..primitives import labels
from .conditioning import BLOCK_BYTES, Bits, Conditioner, debias, unpack
from .health_tests import HealthTest, NoiseSource
from .source_names import HARDWARE, OS, QKD, QRNG

OS_BYTES: Final = 64
_OS_ATTEMPTS: Final = 3
_OS_NOISE: Final = NoiseSource(bits=8, min_entropy=4.0, alpha_log2=-40)
_MAX_RETRY_S: Final = 3600.0
_FAILURES_RESET_S: Final = 3600.0  # of service clears the failures: false positives recur at rate alpha


def draw_seed(system: bytes, hardware: bytes = b"", qrng: bytes = b"", qkd: bytes = b"") -> bytes:
    """A 64-byte seed. `system` is 64 bytes from the operating system; fewer raise ValueError."""
    if len(system) < OS_BYTES:
        raise ValueError(f"a seed needs {OS_BYTES} bytes of system entropy, got {len(system)}")
    return hashlib.sha3_512(fields(labels.SEED_DRAW, system, hardware, qrng, qkd)).digest()


class State(Enum):
    """State of a source; the value is the one in reports."""

    STARTING = "starting"  # nothing usable yet
    ON = "on"
    OFF = "switched off"  # intermittent failure (SP 800-90B, 4.3): retried at `retry_at`
    DISABLED = "disabled"  # persistent failure: off until this process is restarted
    ABSENT = "absent"  # not on this machine


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """Processing of a source other than the operating system.

    noise: of its raw samples. debiased: von Neumann debiasing before conditioning. conditioned: hash into
    blocks; False uses the input as it is (keys after privacy amplification). simulated: counted as zero.

    Raises ValueError for samples that are neither bits nor bytes.
    """

    noise: NoiseSource
    debiased: bool = False
    conditioned: bool = True
    simulated: bool = False

    def __post_init__(self) -> None:
        if self.noise.bits not in (1, 8):
            raise ValueError(f"a source with samples of {self.noise.bits} bits; allowed are 1 and 8")


SOURCES: Final[Mapping[str, SourceConfig]] = {
    HARDWARE: SourceConfig(NoiseSource(bits=8, min_entropy=4.0)),
    QRNG: SourceConfig(NoiseSource(bits=1, min_entropy=1.0), debiased=True, simulated=True),
    QKD: SourceConfig(NoiseSource(bits=1, min_entropy=1.0), conditioned=False, simulated=True),
}


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """capacity_bytes: kept per source. retry_s: pause after a failure, doubled with each further one.
    failures: after so many without an hour of service between them a source is disabled.
    """

    capacity_bytes: int = 1024
    retry_s: float = 60.0
    failures: int = 5


@dataclass(slots=True)
class _EntropySource:
    name: str
    config: SourceConfig
    test: HealthTest
    conditioner: Conditioner
    state: State = State.STARTING
    detail: str = ""
    retry_at: float = 0.0
    on_since: float = 0.0
    failures: int = 0
    blocks: deque[bytes] = field(default_factory=deque, repr=False)
    held: int = 0
    delivered: int = 0
    used: int = 0
    raw_bits: int = 0

    def clear(self) -> None:
        self.blocks.clear()
        self.held = 0
        self.conditioner.clear()


class EntropyPool:
    """Sources by name, and the seeds drawn from them. Thread-safe.

    Args:
        random: operating-system random numbers, `os.urandom`.
        enabled: names of the sources in use; the operating system is always among them.

    Raises:
        ValueError: an unknown source.
    """

    def __init__(
        self,
        random: Callable[[int], bytes],
        enabled: tuple[str, ...] = (OS,),
        config: PoolConfig | None = None,
        sources: Mapping[str, SourceConfig] = SOURCES,
    ) -> None:
        unknown = [name for name in enabled if name != OS and name not in sources]
        if unknown:
            allowed = ", ".join((OS, *sources))
            raise ValueError(f"entropy source {unknown[0]!r} is not known; allowed are {allowed}")
        self._random = random
        self._config = config or PoolConfig()
        self._lock = Lock()
        self._sources = {
            name: _EntropySource(
                name,
                sources[name],
                HealthTest(sources[name].noise),
                Conditioner(name, sources[name].noise.min_entropy / sources[name].noise.bits),
            )
            for name in dict.fromkeys(enabled)
            if name != OS
        }
        self._drawn = 0
        self._os_failures = 0
        self._os_digest = b""

    @property
    def names(self) -> tuple[str, ...]:
        """The sources in use other than the operating system."""
        return tuple(self._sources)

    def accepts(self, name: str, now: float) -> bool:
        """True if samples of this source are accepted now: it is present, not switched off, and has room."""
        with self._lock:
            source = self._sources.get(name)
            if source is None or source.state in (State.ABSENT, State.DISABLED):
                return False
            if source.state is State.OFF:
                return now >= source.retry_at
            return source.held < self._config.capacity_bytes

    def add(self, name: str, raw: bytes, now: float) -> list[SecurityAlarm]:
        """Adds samples of a source, eight bits to the byte. A health test failure discards them and all that
        is buffered of the source, and switches it off.
        """
        with self._lock:
            source = self._sources[name]
            if source.state in (State.ABSENT, State.DISABLED):
                return []
            if source.state is State.OFF and now < source.retry_at:
                return []
            samples = unpack(raw) if source.config.noise.bits == 1 else np.frombuffer(raw, dtype=np.uint8)
            source.raw_bits += 8 * len(raw)
            was_started = source.test.started
            fault = source.test.feed(samples)
            if fault is not None:
                return self._switch_off(source, fault, now)
            if not was_started:  # samples of the start-up test are discarded (section 4.3)
                return self._switch_on(source, now) if source.test.started else []
            self._store(source, unpack(raw), raw)
            return []

    def failed(self, name: str, reason: str, now: float) -> list[SecurityAlarm]:
        """Switches a source off that could not deliver (worker terminated, device error)."""
        with self._lock:
            source = self._sources[name]
            if source.state in (State.ABSENT, State.DISABLED):
                return []
            return self._switch_off(source, reason, now)

    def absent(self, name: str, reason: str) -> list[SecurityAlarm]:
        """Marks a source as absent on this machine; reported once."""
        with self._lock:
            source = self._sources[name]
            if source.state is State.ABSENT:
                return []
            source.clear()
            source.state, source.detail = State.ABSENT, reason
            return [SecurityAlarm("info", f"entropy source {name} is absent: {reason}")]

    def draw(self) -> bytes:
        """A 64-byte seed; never blocks.

        Raises:
            EntropyError: three times in a row the operating system returned no random numbers, or they failed
                their health test.
        """
        with self._lock:
            system = self._draw_os()
            parts = {name: self._take(source) for name, source in self._sources.items()}
            self._drawn += 1
        return draw_seed(system, **parts)

    def status(self) -> dict[str, Any]:
        """For reports: JSON-ready, without secrets."""
        with self._lock:
            return {
                "seeds_drawn": self._drawn,
                "sources": {
                    OS: {
                        "state": State.ON.value,
                        "simulated": False,
                        "failures": self._os_failures,
                    },
                    **{name: self._report(source) for name, source in self._sources.items()},
                },
            }

    def summary(self) -> dict[str, str]:
        """One line per source, for `SecurityState.entropy`."""
        with self._lock:
            lines = {OS: "in use"}
            for name, source in self._sources.items():
                text = {
                    State.STARTING: "starting",
                    State.ON: "in use",
                    State.OFF: f"failed: {source.detail}",
                    State.DISABLED: f"disabled: {source.detail}",
                    State.ABSENT: f"absent: {source.detail}",
                }[source.state]
                lines[name] = f"{text} (simulated)" if source.config.simulated else text
            return lines

    # Inside, under the lock

    def _draw_os(self) -> bytes:
        fault: str | None = None
        for _ in range(_OS_ATTEMPTS):
            try:
                system = self._random(OS_BYTES)
            except (OSError, NotImplementedError) as error:  # what os.urandom raises
                fault = f"none came: {error}"
            else:
                fault = self._os_fault(system)
            if fault is None:
                return system
            self._os_failures += 1
        raise EntropyError(f"the operating system's random numbers are not random ({fault})")

    def _os_fault(self, system: bytes) -> str | None:
        if len(system) != OS_BYTES:
            return f"{len(system)} bytes came instead of {OS_BYTES}"
        before, self._os_digest = self._os_digest, hashlib.sha3_256(system).digest()
        if hmac.compare_digest(before, self._os_digest):
            return "the same bytes came twice"
        return HealthTest(_OS_NOISE).feed(np.frombuffer(system, dtype=np.uint8))

    def _switch_off(self, source: _EntropySource, reason: str, now: float) -> list[SecurityAlarm]:
        source.clear()
        source.test.reset()
        if source.state is State.ON and now - source.on_since >= _FAILURES_RESET_S:
            source.failures = 0
        source.failures += 1
        source.detail = reason
        if source.failures >= self._config.failures:
            source.state = State.DISABLED
            then = "off until this process is started again"
        else:
            source.state = State.OFF
            pause_s = min(self._config.retry_s * 2.0 ** (source.failures - 1), _MAX_RETRY_S)
            source.retry_at = now + pause_s
            then = f"tried again in {pause_s:.0f} s"
        return [SecurityAlarm("warning", f"entropy source {source.name} is switched off, {then}: {reason}")]

    def _switch_on(self, source: _EntropySource, now: float) -> list[SecurityAlarm]:
        again = source.failures > 0
        source.state, source.detail, source.on_since = State.ON, "", now
        return (
            [SecurityAlarm("info", f"entropy source {source.name} passed its start-up test again")]
            if again
            else []
        )

    def _store(self, source: _EntropySource, bits: Bits, raw: bytes) -> None:
        # In blocks that a seed can take: keys from other equipment may be longer.
        blocks = [raw[at : at + BLOCK_BYTES] for at in range(0, len(raw), BLOCK_BYTES)]
        if source.config.conditioned:
            blocks = source.conditioner.feed(debias(bits) if source.config.debiased else bits)
        for block in blocks:
            if source.held + len(block) > self._config.capacity_bytes:
                return
            source.blocks.append(block)
            source.held += len(block)
            source.delivered += len(block)

    @staticmethod
    def _take(source: _EntropySource) -> bytes:
        """Removes and returns at most one block, oldest first."""
        taken: list[bytes] = []
        size = 0
        while source.blocks and size + len(source.blocks[0]) <= BLOCK_BYTES:
            taken.append(source.blocks.popleft())
            size += len(taken[-1])
        source.held -= size
        source.used += size
        return b"".join(taken)

    def _report(self, source: _EntropySource) -> dict[str, Any]:
        simulated = source.config.simulated
        per_byte = 8.0
        if source.config.conditioned:
            per_byte = source.conditioner.entropy_per_block / BLOCK_BYTES
        return {
            "state": source.state.value,
            "simulated": simulated,
            "detail": source.detail,
            "failures": source.failures,
            "held_bytes": source.held,
            "used_bytes": source.used,
            "entropy_used_bits": 0.0 if simulated else round(source.used * per_byte, 1),
            "raw_bits": source.raw_bits,
            **source.test.status(),
        }
