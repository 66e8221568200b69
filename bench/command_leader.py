"""A leader for the command benchmark: takes the drones up as usual, then sends GOTO commands at fixed rates.

Each command names one drone. Phases are given in the environment variable `CHIMERA_BENCH_PHASES` as JSON:
[[name, commands per second, seconds, ticks per second], …]; what is due at a tick leaves under one signature,
as in the leader itself.
"""

from __future__ import annotations

import json
import os
import sys
from math import nan

from chimera_ros.msg import CommandAcks, DroneTelemetry

from chimera_ros.flight.messages import AckStatus, CommandKind, DroneState, SwarmCommand
from chimera_ros.nodes.leader import MAX_COMMANDS, LeaderNode
from chimera_ros.ros.executor import run_node
from chimera_ros.ros.lifecycle import boot_time_s

FIRST_ID = 1_000_000
STEP_M = 0.4
DEADLINE_NS = 2_000_000_000
PAUSE_S = 2.0


class CommandLeader(LeaderNode):
    """The leader node plus a generator of commands once every drone hovers."""

    def begin(self) -> None:
        """Start as usual, and look out for the moment when all hover."""
        self._phases = [tuple(phase) for phase in json.loads(os.environ["CHIMERA_BENCH_PHASES"])]
        self._homes: dict[str, tuple[float, float, float]] = {}
        self._acks: set[tuple[str, int]] = set()
        self._index = -1
        self._began_s = 0.0
        self._sent = 0
        self._tick_due_s = 0.0
        self._next_id = FIRST_ID
        self._results: list[dict[str, object]] = []
        self._finished_at_s: float | None = None
        super().begin()
        self._periodic.append(self.create_steady_timer(0.002, self._generate))

    def _on_telemetry(self, message: DroneTelemetry, sender: str) -> None:
        super()._on_telemetry(message, sender)
        if self._index < 0 and message.state == DroneState.HOLDING:
            point = message.position_enu_m
            self._homes[sender] = (point.x, point.y, point.z)

    def _on_ack(self, message: CommandAcks, sender: str) -> None:
        super()._on_ack(message, sender)
        for ack in message.acks:
            if ack.command_id >= FIRST_ID and ack.status == AckStatus.ACCEPTED:
                self._acks.add((sender, ack.command_id))

    def _generate(self) -> None:
        now = boot_time_s()
        if self._index < 0:
            ready = len(self._homes) == self.parameters.drones and self._core.phase.endswith("hold")
            if ready:
                self._start(0, now + PAUSE_S)
            return
        if self._index >= len(self._phases) or now < self._began_s:
            return
        _, rate_hz, seconds, tick_hz = self._phases[self._index]
        elapsed_s = now - self._began_s
        if elapsed_s > seconds:
            if elapsed_s > seconds + PAUSE_S:  # late acknowledgements still count
                self._results.append({"sent": self._sent, "accepted": len(self._acks), "seconds": seconds})
                self._start(self._index + 1, now)
            return
        if now < self._tick_due_s:
            return
        self._tick_due_s = max(self._tick_due_s + 1.0 / tick_hz, now - 0.1)
        due = min(int(elapsed_s * rate_hz) - self._sent, MAX_COMMANDS)
        if due > 0:
            self.send_commands([self._next_command() for _ in range(due)])

    def _next_command(self) -> SwarmCommand:
        drones = sorted(self._homes)
        drone = drones[self._sent % len(drones)]
        east, north, up = self._homes[drone]
        side = STEP_M if (self._sent // len(drones)) % 2 else -STEP_M
        self._next_id += 1
        self._sent += 1
        return SwarmCommand(
            command_id=self._next_id,
            term=self._core.config.term,
            kind=CommandKind.GOTO,
            targets=(drone,),
            target_enu_m=(east + side, north, up),
            yaw_enu_rad=nan,
            deadline_ns=self._session.swarm_ns() + DEADLINE_NS,  # type: ignore[union-attr]
        )

    def _start(self, index: int, at_s: float) -> None:
        self._index, self._began_s = index, at_s
        self._sent = 0
        self._tick_due_s = at_s
        self._acks.clear()

    def _report_status(self) -> None:
        super()._report_status()
        done = self._index >= len(self._phases)
        phase = "done" if done else "wait" if self._index < 0 else self._phases[self._index][0]
        self._status.write(
            {"process": "bench", "phase": phase, "results": self._results, "mission": self._core.phase}
        )


if __name__ == "__main__":
    sys.exit(run_node(CommandLeader, sys.argv))
