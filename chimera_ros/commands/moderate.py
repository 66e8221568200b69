"""`chimera moderate FILE.json`: path moderation of the trajectories in a file, once and without ROS."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from chimera_ros.command_line import number, output_file, some_text, whole
from chimera_ros.commands.errors import FAILURE, MISUSE, CommandFailed
from chimera_ros.terminal.lines import print_json, print_line

if TYPE_CHECKING:
    from chimera_ros.flight.moderation_call import ModerationRequest
    from chimera_ros.moderation.request import ModerationResult
    from chimera_ros.quantum.worker import AerWorker

START_S = 20.0  # for the start of the quantum worker, before the deadline begins to run


def register(parser: argparse.ArgumentParser) -> None:
    """Declares the options of `chimera moderate`."""
    add = parser.add_argument
    add(
        "scene",
        type=some_text,
        metavar="FILE.json",
        help="trajectories, separation, limits and fence; - reads standard input",
    )
    add("--deadline", type=number, metavar="S", help="seconds for the answer (default: the scene's)")
    add("--seed", type=whole, metavar="N", help="seed of the solvers (default: the scene's)")
    add(
        "--backend",
        type=_backend,
        default="aer",
        metavar="NAME",
        help="backend of quantum circuits: aer, none, or a Qiskit backend (docs/moderation.md)",
    )
    add("--plot", type=output_file, metavar="FILE.png", help="plot the trajectories before and after")
    add("--json", action="store_true", help="print the whole answer, trajectories included, as JSON")


def _backend(text: str) -> str:
    from chimera_ros.quantum.sampler import check_backend

    try:
        return check_backend(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(arguments: argparse.Namespace) -> int:
    """Moderates a scene; 0 for conflict-free, 1 for infeasible and undecided, 2 for an invalid scene."""
    from chimera_ros.flight.moderation_call import ModerationStatus
    from chimera_ros.moderation.file_format import result_to_dict

    request = _request(arguments)
    answer = _moderate(request, arguments.backend)
    if answer.status is ModerationStatus.FAILED:
        raise CommandFailed(f"{arguments.scene}: {answer.reason}", MISUSE)
    picture = None
    if arguments.plot is not None:
        picture = _plot(request, answer, arguments.plot)
    if arguments.json:
        print_json(result_to_dict(request, answer) | {"picture": picture}, indent=1)
    else:
        _print(request, answer)
        if picture:
            print_line(f"picture     {picture}")
    return 0 if answer.status is ModerationStatus.CONFLICT_FREE else FAILURE


def _request(arguments: argparse.Namespace) -> ModerationRequest:
    from chimera_ros.flight.moderation_call import MAX_DEADLINE_S, MAX_SEED, MIN_DEADLINE_S
    from chimera_ros.formats.text import FormatError, read_bytes
    from chimera_ros.moderation.file_format import MAX_BYTES, SceneError, read_scene

    try:
        if arguments.scene == "-":
            text = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            text = read_bytes(arguments.scene, MAX_BYTES)
        request = read_scene(text)
    except OSError as error:
        raise CommandFailed(f"{arguments.scene}: {error.strerror or error}", MISUSE) from None
    except (FormatError, SceneError) as error:
        raise CommandFailed(f"{arguments.scene}: {error}", MISUSE) from None
    if arguments.deadline is not None:
        if not MIN_DEADLINE_S <= arguments.deadline <= MAX_DEADLINE_S:
            raise CommandFailed(
                f"--deadline is {arguments.deadline}; allowed are {MIN_DEADLINE_S:g} to {MAX_DEADLINE_S:g} s",
                MISUSE,
            )
        request = replace(request, deadline_s=arguments.deadline)
    if arguments.seed is not None:
        if not 0 <= arguments.seed <= MAX_SEED:
            raise CommandFailed(f"--seed is {arguments.seed}; allowed are 0 to {MAX_SEED}", MISUSE)
        request = replace(request, seed=arguments.seed)
    return request


def _moderate(request: ModerationRequest, backend: str) -> ModerationResult:
    from chimera_ros.moderation.ladder import Moderator
    from chimera_ros.moderation.warm_up import warm_up

    moderator = Moderator(time.monotonic)
    if backend == "none":
        warm_up(moderator)
        return moderator.run(request)
    from chimera_ros.quantum.sampler import AerSampler
    from chimera_ros.quantum.worker import AerWorker

    with AerWorker() as worker:
        sampler = AerSampler(worker, backend) if _ready(worker) else None
        warm_up(moderator)
        return moderator.run(request, sampler=sampler)


def _ready(worker: AerWorker) -> bool:
    from chimera_ros.quantum.worker import WorkerUnavailable

    try:
        worker.wait_ready(START_S)
    except WorkerUnavailable as error:
        print_line(f"chimera moderate: without quantum circuits: {error}", error=True)
        return False
    return True


def _print(request: ModerationRequest, answer: ModerationResult) -> None:
    from math import isfinite

    state = "UNDECIDED" if answer.undecided else answer.status.name.replace("_", "-")
    print_line(f"{state}: {len(request.drones)} drones, {len(answer.before)} conflicts in what was asked")
    if answer.reason:
        print_line(f"  {answer.reason}")
    for clash in answer.remaining[:10]:
        print_line(f"  - {clash.sentence()}")
    if answer.winner:
        proven = " (proven optimal among these manoeuvres)" if answer.proven and answer.before else ""
        print_line(f"winner      {answer.winner}{proven}")
    if isfinite(answer.cost):
        gains = [
            f"{gain:.2f} better than {name}"
            for name, gain in (
                ("greedy", answer.gain_over_greedy),
                ("annealing", answer.gain_over_annealing),
            )
            if isfinite(gain)
        ]
        print_line(f"cost        {answer.cost:.2f} m" + (f" ({', '.join(gains)})" if gains else ""))
    if answer.backend:
        print_line(f"circuits    {answer.backend}, {answer.qubits} qubits, {answer.shots} shots")
    print_line(f"time        {answer.total_ms:.0f} of {1e3 * request.deadline_s:.0f} ms")
    for rung in answer.stages:
        print_line(f"  {rung.ms:8.1f} ms  {rung.name:16} {rung.outcome}")


def _plot(request: ModerationRequest, answer: ModerationResult, path: Path) -> str:
    from chimera_ros.records.moderation_plot import draw_moderation
    from chimera_ros.records.tracks import TracksFailed

    try:
        draw_moderation(request, answer, path)
    except TracksFailed as error:
        raise CommandFailed(str(error)) from error
    return str(path)
