"""What fills the pool: devices that are there, absent or broken, and a quantum worker that dies."""

import os
import random
from pathlib import Path
from uuid import UUID

import pytest

from chimera_ros.crypto.entropy.pool import EntropyPool
from chimera_ros.crypto.qkd.delivery import DeliveredKey, DistilledKeys
from chimera_ros.quantum.entropy_feed import EntropyFeed
from chimera_ros.quantum.worker import WorkerUnavailable


class Worker:
    """In the place of AerWorker."""

    def __init__(self) -> None:
        self.ready = True
        self.absent = ""
        self.restarts = 0
        self.dead = False
        self.answer = random.Random(1).randbytes

    def call(self, job: str, body: bytes, timeout_s: float) -> bytes:
        if self.dead:
            self.restarts += 1
            raise WorkerUnavailable("the quantum worker died in job entropy.qrng: signal 9")
        return self.answer(1024)


def feed(pool: EntropyPool, clock: list[float], **parts: object) -> EntropyFeed:
    return EntropyFeed(pool, lambda: clock[0], **parts)  # type: ignore[arg-type]


def state(pool: EntropyPool, name: str) -> str:
    return str(pool.status()["sources"][name]["state"])


def test_a_device_is_read_until_the_pool_is_full(tmp_path: Path) -> None:
    device = tmp_path / "hwrng"
    device.write_bytes(random.Random(2).randbytes(512))
    pool = EntropyPool(os.urandom, ("os", "hardware"))
    feeding = feed(pool, [0.0], hardware=device)
    steps = 0
    while feeding.step():
        device.write_bytes(random.Random(steps + 3).randbytes(512))
        steps += 1
    assert pool.status()["sources"]["hardware"]["held_bytes"] == 1024
    assert feeding.take_alarms() == []


@pytest.mark.parametrize("kind", ["missing", "directory", "empty"])
def test_no_device_is_absent_and_said_once(tmp_path: Path, kind: str) -> None:
    pool = EntropyPool(os.urandom, ("hardware",))
    (tmp_path / "empty").touch()
    feeding = feed(pool, [0.0], hardware=tmp_path if kind == "directory" else tmp_path / kind)
    feeding.step()
    feeding.step()
    (alarm,) = feeding.take_alarms()
    assert alarm.severity == "info" and "absent" in alarm.text
    assert state(pool, "hardware") == "absent"


def test_a_stuck_device_is_switched_off(tmp_path: Path) -> None:
    device = tmp_path / "hwrng"
    device.write_bytes(bytes(512))
    pool = EntropyPool(os.urandom, ("hardware",))
    feeding = feed(pool, [0.0], hardware=device)
    feeding.step()
    (alarm,) = feeding.take_alarms()
    assert alarm.severity == "warning" and "repetition count" in alarm.text


def test_a_device_that_worked_and_goes_is_a_failure_and_comes_back(tmp_path: Path) -> None:
    device = tmp_path / "hwrng"
    device.write_bytes(random.Random(2).randbytes(512))
    pool, clock = EntropyPool(os.urandom, ("hardware",)), [0.0]
    feeding = feed(pool, clock, hardware=device)
    for step in range(4):
        device.write_bytes(random.Random(step).randbytes(512))
        feeding.step()
    assert state(pool, "hardware") == "on"
    for gone_at in (1.0, 62.0):  # also while it is being tried again
        clock[0] = gone_at
        device.unlink(missing_ok=True)
        feeding.step()
        (alarm,) = feeding.take_alarms()
        assert alarm.severity == "warning" and "cannot be opened" in alarm.text
        assert state(pool, "hardware") == "switched off"
    clock[0] = 62.0 + 121.0
    for step in range(3):
        device.write_bytes(random.Random(step).randbytes(512))
        feeding.step()
    assert state(pool, "hardware") == "on"


def test_a_client_that_raises_is_switched_off_and_the_other_sources_go_on() -> None:
    class Broken(DistilledKeys):
        def get_key(self, number: int = 1) -> list[DeliveredKey]:
            raise ConnectionError("the key management entity does not answer")

    pool, worker = EntropyPool(os.urandom, ("qkd", "qrng")), Worker()
    feeding = feed(pool, [0.0], worker=worker, delivery=Broken())
    feeding.step()
    (alarm,) = feeding.take_alarms()
    assert alarm.severity == "warning" and "does not answer" in alarm.text
    while feeding.step():
        pass
    assert (state(pool, "qkd"), state(pool, "qrng")) == ("switched off", "on")


@pytest.mark.parametrize("size", [0, 1 << 20])
def test_a_key_of_no_usable_length_is_a_failure(size: int) -> None:
    class Odd(DistilledKeys):
        def get_key(self, number: int = 1) -> list[DeliveredKey]:
            return [DeliveredKey(UUID(int=1), os.urandom(size))]

    pool = EntropyPool(os.urandom, ("qkd",))
    feeding = feed(pool, [0.0], delivery=Odd())
    feeding.step()
    (alarm,) = feeding.take_alarms()
    assert alarm.severity == "warning" and "no usable length" in alarm.text
    assert pool.status()["sources"]["qkd"]["raw_bits"] == 0


def test_a_worker_that_dies_is_an_alarm_and_comes_back() -> None:
    pool, clock, worker = EntropyPool(os.urandom, ("qrng",)), [0.0], Worker()
    feeding = feed(pool, clock, worker=worker)
    while feeding.step():
        pass
    assert state(pool, "qrng") == "on"
    pool.draw()
    worker.dead = True
    feeding.step()
    (alarm,) = feeding.take_alarms()
    assert "qrng is switched off" in alarm.text and "signal 9" in alarm.text
    assert len(pool.draw()) == 64
    worker.dead = False
    feeding.step()
    assert state(pool, "qrng") == "switched off"
    clock[0] = 61.0
    feeding.step()
    assert state(pool, "qrng") == "on"


def test_a_worker_that_died_idle_is_an_alarm_once() -> None:
    pool, worker = EntropyPool(os.urandom, ("qrng",)), Worker()
    feeding = feed(pool, [0.0], worker=worker)
    worker.restarts, worker.ready = 1, False
    feeding.step()
    (alarm,) = feeding.take_alarms()
    assert "the quantum worker died" in alarm.text
    feeding.step()
    assert feeding.take_alarms() == []


def test_biased_circuits_and_short_answers_are_switched_off() -> None:
    for answer, word in ((lambda n: bytes(n), "repetition"), (lambda n: bytes(n - 1), "another number")):
        pool, worker = EntropyPool(os.urandom, ("qrng",)), Worker()
        worker.answer = answer
        feeding = feed(pool, [0.0], worker=worker)
        feeding.step()
        (alarm,) = feeding.take_alarms()
        assert word in alarm.text


def test_without_aer_qrng_is_absent() -> None:
    pool, worker = EntropyPool(os.urandom, ("qrng",)), Worker()
    worker.ready = False
    feeding = feed(pool, [0.0], worker=worker)
    feeding.step()
    assert state(pool, "qrng") == "starting"  # the worker may still come
    worker.absent = "quantum circuits cannot run here: No module named 'qiskit'"
    feeding.step()
    assert "cannot run here" in pool.summary()["qrng"]


def test_keys_of_the_delivery_go_into_the_pool_once() -> None:
    pool, keys = EntropyPool(os.urandom, ("qkd",)), DistilledKeys()
    keys.add(b"one", random.Random(5).randbytes(32 * 8))
    feeding = feed(pool, [0.0], delivery=keys)
    for _ in range(10):
        feeding.step()
    assert keys.status().stored_key_count == 0
    report = pool.status()["sources"]["qkd"]
    assert report["held_bytes"] == 32 * 4  # the first 1024 bits are the start-up test's
    assert report["simulated"]


def test_the_thread_gathers_and_ends() -> None:
    pool, worker = EntropyPool(os.urandom, ("qrng",)), Worker()
    feeding = feed(pool, [0.0], worker=worker)
    feeding.close()  # before it has begun
    feeding = feed(pool, [0.0], worker=worker)
    feeding.start()
    feeding.close()
    assert not feeding._thread.is_alive()
