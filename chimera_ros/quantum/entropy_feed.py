"""Entropy feed: a thread that fills the entropy pool ahead of demand, so that drawing a seed never blocks.

hardware   the kernel's hardware random number generator, /dev/hwrng. RDSEED and RDRAND are inputs of
           the kernel's own pool, hence already part of the source "os". Absent if the device is unreadable.
qrng       qubits measured after a Hadamard gate, simulated on Aer in the worker process.
qkd        keys from a quantum key distribution service (`KeyDelivery`).
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from chimera_ros.crypto.effects import SecurityAlarm
from chimera_ros.crypto.entropy.conditioning import Bits, unpack
from chimera_ros.crypto.entropy.pool import EntropyPool
from chimera_ros.crypto.entropy.source_names import HARDWARE, QKD, QRNG
from chimera_ros.crypto.qkd.delivery import KeyDelivery
from chimera_ros.crypto.qkd.quantum_channel import Run, Simulator, encode_run

from . import entropy_jobs
from .worker import AerWorker, WorkerRefused, WorkerUnavailable

HWRNG: Final = Path("/dev/hwrng")
SHOTS: Final = 1024
MODULES: Final = ("chimera_ros.quantum.entropy_jobs",)
_PERIOD_S: Final = 0.5
_HARDWARE_BYTES: Final = 512
_JOB_LIMIT_S: Final = 5.0
_MAX_ALARMS: Final = 64
_MAX_KEY_BYTES: Final = 1024
_MAX_TEXT: Final = 200  # characters of a client's error text


def aer_simulator(worker: AerWorker) -> Simulator:
    """Simulator of a BB84 photon channel on Aer, in the worker process.

    The returned function raises WorkerUnavailable or WorkerRefused.
    """

    def simulate(run: Run) -> Bits:
        answer = unpack(worker.call(entropy_jobs.BB84, encode_run(run), _JOB_LIMIT_S))
        if len(answer) < len(run.bits):
            raise WorkerUnavailable("the quantum worker measured fewer photons than were sent")
        return answer[: len(run.bits)]

    return simulate


class EntropyFeed:
    """Thread that fills a pool from its sources until closed.

    Args:
        now: the boot-time clock, s.
        worker: for qrng; None if not in use.
        delivery: for qkd; None if not in use.
        hardware: the device of the hardware random number generator.
    """

    def __init__(
        self,
        pool: EntropyPool,
        now: Callable[[], float],
        worker: AerWorker | None = None,
        delivery: KeyDelivery | None = None,
        hardware: Path = HWRNG,
    ) -> None:
        self._pool = pool
        self._now = now
        self._worker = worker
        self._restarts = 0
        self._delivery = delivery
        self._hardware = hardware
        self._alarms: queue.Queue[SecurityAlarm] = queue.Queue(_MAX_ALARMS)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="entropy", daemon=True)
        self._gatherers: dict[str, Callable[[], list[SecurityAlarm]]] = {
            HARDWARE: self._gather_hardware,
            QRNG: self._gather_qrng,
            QKD: self._gather_qkd,
        }

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stops the thread; waits for a read in progress."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=_JOB_LIMIT_S + 1.0)

    def take_alarms(self) -> list[SecurityAlarm]:
        """The alarms since the last call."""
        found: list[SecurityAlarm] = []
        while True:
            try:
                found.append(self._alarms.get_nowait())
            except queue.Empty:
                return found

    def report(self, alarms: list[SecurityAlarm]) -> None:
        """Queues alarms; those above the limit are dropped."""
        for alarm in alarms:
            try:
                self._alarms.put_nowait(alarm)
            except queue.Full:
                return

    def step(self) -> bool:
        """Reads once from each source that the pool accepts. Returns True if more can be read at once."""
        more = False
        for name in self._pool.names:
            if self._pool.accepts(name, self._now()):
                try:
                    alarms = self._gatherers[name]()
                except Exception as error:  # a client may raise anything; the other sources continue
                    reason = (str(error) or type(error).__name__)[:_MAX_TEXT]
                    alarms = self._pool.failed(name, reason, self._now())
                self.report(alarms)
                more = more or (name != QKD and self._pool.accepts(name, self._now()))
        return more

    def _run(self) -> None:
        while not self._stopped.wait(_PERIOD_S):
            self.step()

    def _gather_hardware(self) -> list[SecurityAlarm]:
        try:
            handle = os.open(self._hardware, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            return self._without_hardware(f"{self._hardware} cannot be opened ({error.strerror})")
        try:
            data = os.read(handle, _HARDWARE_BYTES)
        except BlockingIOError:
            return []  # no data yet
        except OSError as error:
            return self._without_hardware(f"{self._hardware} gives nothing ({error.strerror})")
        finally:
            os.close(handle)
        if not data:
            return self._without_hardware(f"{self._hardware} gives nothing (end of file)")
        return self._pool.add(HARDWARE, data, self._now())

    def _without_hardware(self, reason: str) -> list[SecurityAlarm]:
        """Marks the source as absent; as failed if it has worked before."""
        if self._pool.status()["sources"][HARDWARE]["raw_bits"]:
            return self._pool.failed(HARDWARE, reason, self._now())
        return self._pool.absent(HARDWARE, reason)

    def _gather_qrng(self) -> list[SecurityAlarm]:
        worker = self._worker
        if worker is None:
            return self._pool.absent(QRNG, "there is no quantum worker in this process")
        ready = worker.ready
        if worker.restarts != self._restarts:  # it terminated while idle
            self._restarts = worker.restarts
            return self._pool.failed(QRNG, "the quantum worker died", self._now())
        if not ready:
            return self._pool.absent(QRNG, worker.absent) if worker.absent else []
        seed = int.from_bytes(os.urandom(8)) >> 2
        try:
            request = entropy_jobs.QRNG_REQUEST.pack(seed, SHOTS, entropy_jobs.QUBITS)
            raw = worker.call(entropy_jobs.QRNG, request, _JOB_LIMIT_S)
        except (WorkerUnavailable, WorkerRefused) as error:
            self._restarts = worker.restarts
            return self._pool.failed(QRNG, str(error), self._now())
        if len(raw) != SHOTS * entropy_jobs.QUBITS // 8:
            return self._pool.failed(QRNG, f"{len(raw)} bytes of random bits are another number", self._now())
        return self._pool.add(QRNG, raw, self._now())

    def _gather_qkd(self) -> list[SecurityAlarm]:
        if self._delivery is None:
            return self._pool.absent(QKD, "no key delivery is configured")
        alarms: list[SecurityAlarm] = []
        for delivered in self._delivery.get_key():
            if not 0 < len(delivered.key) <= _MAX_KEY_BYTES:
                return [*alarms, *self._pool.failed(QKD, "a key of no usable length", self._now())]
            alarms += self._pool.add(QKD, delivered.key, self._now())
        return alarms


__all__ = ["EntropyFeed", "aer_simulator"]
