"""The quantum worker process: bit order, deadlines, deaths, absence of Aer, no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from chimera_ros.moderation.circuits import Ansatz, CircuitSpec, SamplerUnavailable
from chimera_ros.quantum import jobs
from chimera_ros.quantum.sampler import AerSampler
from chimera_ros.quantum.worker import AerWorker, WorkerRefused, WorkerTimeout, WorkerUnavailable

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 60.0
JOBS = """
import ctypes, os
from chimera_ros.quantum.jobs import JobRefused, job

@job("test.echo")
def echo(body):
    return body[::-1]

@job("test.hog")
def hog(body):
    seconds, mark = body.decode().split()
    open(mark, "w").close()
    ctypes.PyDLL(None).sleep(int(seconds))  # holds the interpreter, as Aer does
    return b""

@job("test.break")
def fail(body):
    raise ZeroDivisionError("divided")

@job("test.refuse")
def refuse(body):
    raise JobRefused("not like this")

@job("test.noise")
def noise(body):
    print("library noise", flush=True)
    os.write(1, b"more noise")
    return b"quiet"
"""


@pytest.fixture(scope="module")
def jobs_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("jobs")
    (path / "jobs_of_this_test.py").write_text(JOBS)
    return path


def with_path(path: Path) -> str:
    return os.pathsep.join(filter(None, (str(path), os.environ.get("PYTHONPATH", ""))))


@pytest.fixture(scope="module")
def worker(jobs_path):
    pytest.importorskip("qiskit_aer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", with_path(jobs_path))
        with AerWorker(modules=["jobs_of_this_test"]) as worker:
            worker.wait_ready(WAIT_S)
            yield worker


def wait_for(condition, limit_s: float = WAIT_S):
    until = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < until, "the condition was not met in time"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_job_of_another_module_is_served(worker):
    assert worker.call("test.echo", b"abc", WAIT_S) == b"cba"
    assert "test.echo" in worker.wait_ready(WAIT_S)["jobs"]


def test_a_large_body_comes_back_whole(worker):
    body = bytes(range(256)) * 20_000
    assert worker.call("test.echo", body, WAIT_S) == body[::-1]


def test_what_a_library_prints_does_not_disturb_the_answers(worker):
    assert worker.call("test.noise", b"", WAIT_S) == b"quiet"


@pytest.mark.parametrize("job", ["test.refuse", "test.nothing_of_that_name"])
def test_a_wrong_request_is_refused_and_the_worker_lives_on(worker, job):
    pid = worker.pid
    with pytest.raises(WorkerRefused):
        worker.call(job, b"", WAIT_S)
    assert worker.pid == pid
    assert worker.ready


def test_a_failing_job_is_reported_and_the_worker_lives_on(worker):
    pid = worker.pid
    with pytest.raises(WorkerUnavailable, match="ZeroDivisionError: divided"):
        worker.call("test.break", b"", WAIT_S)
    assert worker.pid == pid


@pytest.mark.parametrize("hello", ["null", "3", "not JSON"])
def test_a_malformed_hello_is_a_death(tmp_path, monkeypatch, hello):
    code = f"""
        import os, struct, sys, time
        os.write(int(sys.argv[1]), struct.pack("<QBI", 0, 0, {len(hello)}) + {hello.encode()!r})
        time.sleep(60)
    """
    (tmp_path / "rude_module.py").write_text(textwrap.dedent(code))
    monkeypatch.setenv("PYTHONPATH", with_path(tmp_path))
    with AerWorker(modules=["rude_module"]) as worker:
        with pytest.raises(WorkerUnavailable, match="died while starting"):
            worker.wait_ready(WAIT_S)
        assert worker.restarts == 1


def test_malformed_circuits_are_refused(worker):
    good = jobs.pack_sample(CircuitSpec(3, 0, np.zeros((1, 3))), 10, 0, "aer")
    for body in (
        b"",
        good[:-1],
        good + b"\0" * 8,
        jobs.pack_sample(CircuitSpec(3, 0, np.zeros((1, 3))), 10, 0, "aer:nonsense"),
        jobs.pack_sample(CircuitSpec(3, 0, np.zeros((1, 3))), 10, 0, "no_module_of_that_name:make"),
        jobs.pack_sample(CircuitSpec(3, 0, np.zeros((1, 3))), jobs.MAX_SHOTS + 1, 0, "aer"),
        good[:-8] + np.array([np.nan]).tobytes(),
    ):
        with pytest.raises(WorkerRefused):
            worker.call(jobs.SAMPLE, body, WAIT_S)


@pytest.mark.parametrize("backend", ["aer", "aer:matrix_product_state", "fake"])
def test_bit_order_is_that_of_the_spec(worker, backend):
    # RY(pi) on qubits 0 and 3 only: every shot reads 1 there, whatever the entangling layer's signs
    angles = np.zeros((2, 10))
    angles[0, [0, 3]] = np.pi
    angles[1, 5 + 4] = np.pi
    bits = AerSampler(worker, backend, WAIT_S).sample(CircuitSpec(5, 1, angles), 200, 3)
    assert bits.shape == (2, 200, 5)
    most = bits.mean(1) > 0.5  # `fake` is noisy
    assert most.tolist() == [[True, False, False, True, False], [False, False, False, False, True]]


@pytest.mark.parametrize("entangle", [True, False])
def test_aer_draws_what_the_state_vector_says(worker, entangle):
    angles = np.random.default_rng(5).uniform(-2, 2, (2, 8))
    bits = AerSampler(worker, "aer", WAIT_S).sample(CircuitSpec(4, 1, angles, entangle), 20_000, 1)
    index = (bits.astype(int) << np.arange(4)).sum(-1)
    for drawn, state in zip(index, Ansatz(4, 1, entangle).states(angles), strict=True):
        shares = np.bincount(drawn, minlength=16) / len(drawn)
        assert np.abs(shares - state**2).max() < 0.02  # five sigma


def test_the_same_seed_draws_the_same_shots(worker):
    sampler = AerSampler(worker, "aer", WAIT_S)
    circuit = CircuitSpec(6, 1, np.full((1, 12), 0.7))
    first, again, other = (sampler.sample(circuit, 64, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert sampler.backend == "aer_simulator_statevector"


def test_many_qubits_use_a_matrix_product_state(worker):
    sampler = AerSampler(worker, "aer", WAIT_S)
    angles = np.zeros((1, 60))
    angles[0, 29] = np.pi
    bits = sampler.sample(CircuitSpec(30, 1, angles), 8, 0)
    assert sampler.backend == "aer_simulator_matrix_product_state"
    assert (bits[0] == np.eye(30)[29]).all()


def hog(seconds: int, mark: Path) -> bytes:
    """A job that makes the file `mark` when it has begun."""
    return f"{seconds} {mark}".encode()


def test_a_late_job_costs_its_worker_and_the_next_call_is_served(worker, tmp_path):
    pid = worker.pid
    with pytest.raises(WorkerTimeout):
        worker.call("test.hog", hog(60, tmp_path / "busy"), 0.2)
    assert gone(pid)
    assert worker.pid != pid
    assert worker.call("test.echo", b"ab", WAIT_S) == b"ba"


def test_a_worker_killed_in_the_middle_of_a_job_is_replaced(worker, tmp_path):
    worker.wait_ready(WAIT_S)
    pid = worker.pid
    failures = []

    def solve():
        try:
            worker.call("test.hog", hog(60, tmp_path / "busy"), WAIT_S)
        except WorkerUnavailable as error:
            failures.append(str(error))

    thread = threading.Thread(target=solve)
    thread.start()
    wait_for((tmp_path / "busy").exists)
    os.kill(pid, signal.SIGKILL)
    thread.join(WAIT_S)
    assert failures == ["the quantum worker died in job test.hog: signal 9"]
    assert worker.call("test.echo", b"ab", WAIT_S) == b"ba"
    assert worker.pid != pid


def test_a_second_caller_waits_in_line_only_as_long_as_it_may(worker, tmp_path):
    worker.wait_ready(WAIT_S)
    job = hog(1, tmp_path / "busy")
    thread = threading.Thread(target=lambda: worker.call("test.hog", job, WAIT_S))
    thread.start()
    wait_for((tmp_path / "busy").exists)
    with pytest.raises(WorkerTimeout, match="busy"):
        worker.call("test.echo", b"", 0.05)
    thread.join(WAIT_S)
    assert worker.call("test.echo", b"ab", WAIT_S) == b"ba"


def test_without_aer_every_call_says_so(tmp_path, monkeypatch):
    (tmp_path / "qiskit_aer.py").write_text("raise ImportError('No module named qiskit_aer')")
    monkeypatch.setenv("PYTHONPATH", with_path(tmp_path))
    with AerWorker() as worker:
        for _ in range(2):
            with pytest.raises(SamplerUnavailable, match="cannot run here: No module named qiskit_aer"):
                AerSampler(worker, "aer", WAIT_S).sample(CircuitSpec(2, 0, np.zeros((1, 2))), 4, 0)
        assert worker.absent
        assert not worker.ready
        assert worker.restarts == 0


def test_a_worker_that_dies_while_starting_is_tried_again_after_a_pause(tmp_path, monkeypatch):
    (tmp_path / "dying_jobs.py").write_text("import os; os._exit(7)")
    monkeypatch.setenv("PYTHONPATH", with_path(tmp_path))
    with AerWorker(modules=["dying_jobs"]) as worker:
        with pytest.raises(WorkerUnavailable, match="starting: exit status 7"):
            worker.call("vqe.sample", b"", WAIT_S)
        with pytest.raises(WorkerUnavailable, match="starting: exit status 7"):
            worker.call("vqe.sample", b"", WAIT_S)  # the replacement, started at once
        with pytest.raises(WorkerUnavailable, match="started again in"):
            worker.call("vqe.sample", b"", WAIT_S)


def test_closing_ends_the_process(worker):
    with AerWorker() as other:
        pid = other.pid
    assert gone(pid)
    with pytest.raises(WorkerUnavailable, match="closed"):
        other.call("vqe.sample", b"", 1.0)


@pytest.mark.parametrize("busy", [False, True])
def test_no_orphan_when_the_parent_is_killed(jobs_path, tmp_path, busy):
    pytest.importorskip("qiskit_aer")
    script = textwrap.dedent(
        f"""
        import sys
        from chimera_ros.quantum.worker import AerWorker
        worker = AerWorker(modules=["jobs_of_this_test"])
        worker.start()
        worker.wait_ready({WAIT_S})
        print(worker.pid, flush=True)
        {f'worker.call("test.hog", {hog(600, tmp_path / "busy")!r}, 1.0)' if busy else "sys.stdin.read()"}
        """
    )
    paths = os.pathsep.join([str(jobs_path), str(ROOT)])
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
    ) as parent:
        child = int(parent.stdout.readline())
        wait_for(lambda: not busy or (tmp_path / "busy").exists())
        parent.kill()
        parent.wait(WAIT_S)
    wait_for(lambda: gone(child))
