"""Output that neither blocks nor raises."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Iterator
from typing import TextIO

import pytest

from chimera_ros.commands.output import MAX_WAITING_BYTES, DetachedOutput


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    ours, theirs = os.pipe()
    with open(ours, "rb"), open(theirs, "w", encoding="ascii") as stream:
        yield ours, stream


def test_what_is_written_arrives_in_order(pipe: tuple[int, TextIO]) -> None:
    ours, stream = pipe
    with DetachedOutput(stream) as output:
        for text in ("one ", "two ", "Größe\n"):
            output.write(text)
        output.drain()
    assert output.problem is None
    assert os.read(ours, 100) == b"one two Gr\\xf6\\xdfe\n"
    assert not output.isatty()


def test_a_reader_that_takes_nothing(pipe: tuple[int, TextIO]) -> None:
    _, stream = pipe
    with DetachedOutput(stream, patience_s=0.5) as output:
        began = time.monotonic()
        for _ in range(100):
            output.write("x" * 10_000)
        assert time.monotonic() - began < 0.5, "it blocks"
        output.drain()
    assert output.problem == "nothing was read for 0.5 s"


def test_a_slow_reader_gets_everything_however_much_it_is(pipe: tuple[int, TextIO]) -> None:
    ours, stream = pipe
    got = bytearray()

    def read() -> None:
        while len(got) < 2 * MAX_WAITING_BYTES:
            got.extend(os.read(ours, 4096))

    reader = threading.Thread(target=read)
    with DetachedOutput(stream) as output:
        output.write("y" * 2 * MAX_WAITING_BYTES)
        reader.start()
        output.drain()
    reader.join()
    assert output.problem is None
    assert bytes(got) == b"y" * 2 * MAX_WAITING_BYTES


def test_a_descriptor_that_does_not_block(pipe: tuple[int, TextIO]) -> None:
    """Some parents leave it so."""
    ours, stream = pipe
    os.set_blocking(stream.fileno(), False)
    with DetachedOutput(stream) as output:
        output.write("z" * 200_000)
        got = 0
        while got < 200_000:
            got += len(os.read(ours, 65536))
        output.drain()
    assert output.problem is None


def test_a_reader_that_has_left() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    with open(theirs, "w", encoding="ascii") as stream, DetachedOutput(stream) as output:
        output.write("one")
        output.drain()
        output.write("two")
        output.drain()
    assert output.problem == "Broken pipe"


def test_streams_without_descriptor() -> None:
    for stream in (None, io.StringIO()):
        with DetachedOutput(stream) as output:
            output.write("text")
            output.drain()
        assert output.problem is None
        assert stream is None or stream.getvalue() == "text"
    closed = io.StringIO()
    closed.close()
    with DetachedOutput(closed) as output:
        output.write("text")
    assert output.problem is not None


def test_no_descriptor_and_no_thread_is_left(pipe: tuple[int, TextIO]) -> None:
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    with DetachedOutput(pipe[1]) as output:
        output.write("text")
        output.drain()
    until = time.monotonic() + 30.0
    while len(os.listdir("/proc/self/fd")) > descriptors or threading.active_count() > threads:
        assert time.monotonic() < until
        time.sleep(0.01)
