"""Outbox of the leader: commands with retransmission, acknowledgements, and every other effect.

A command is retransmitted to the drones that have not acknowledged it until its deadline. Acknowledgements of
the newest `_KEPT` commands and plans are kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import nan

from ..effects import LeaderEffect, MissionEvent, RequestModeration, SendCommand, SendTrajectory
from ..messages import AckStatus, CommandAck, CommandKind, SwarmCommand, Trajectory
from ..moderation_call import ModerationRequest
from ..vehicle import Vec3
from .state import LeaderConfig, LeaderState

_KEPT = 128


@dataclass(slots=True)
class PendingCommand:
    """A command that was sent: drones that have not acknowledged it, and the acknowledgements."""

    command: SwarmCommand
    unacknowledged: set[str]
    resend_s: float
    acks: dict[str, CommandAck] = field(default_factory=dict)


class Outbox:
    """Collects the effects of one leader core."""

    def __init__(self, config: LeaderConfig, state: LeaderState) -> None:
        self._config, self._state = config, state
        self.pending: OrderedDict[int, PendingCommand] = OrderedDict()
        self.plan_acks: OrderedDict[int, dict[str, CommandAck]] = OrderedDict()
        self.command_id = 0
        self.plan_id = 0
        self._out: list[LeaderEffect] = []

    def collect(self) -> list[LeaderEffect]:
        """Takes the effects that have accumulated."""
        out, self._out = self._out, []
        return out

    def event(self, kind: str, text: str) -> None:
        """Reports an event of the mission."""
        self._out.append(MissionEvent(kind, text))

    def command(
        self,
        kind: CommandKind,
        names: Sequence[str],
        target: Vec3 = (nan, nan, nan),
        plan_id: int = 0,
        deadline_ns: int = 0,
        retry_s: float = 0.0,
    ) -> int:
        """Sends a command to the named drones; returns its id.

        Without names nothing is sent: on the wire, no targets mean every drone.
        """
        state, config = self._state, self._config
        self.command_id += 1
        deadline = deadline_ns or state.swarm_ns + int(config.command_deadline_s * 1e9)
        command = SwarmCommand(
            self.command_id, config.term, kind, tuple(names), target, plan_id=plan_id, deadline_ns=deadline
        )
        self.pending[self.command_id] = PendingCommand(
            command, set(names), state.now + (retry_s or config.retry_s)
        )
        while len(self.pending) > _KEPT:
            self.pending.popitem(last=False)
        if names:
            self._out.append(SendCommand(command))
        return self.command_id

    def resend_to(self, command_id: int, name: str) -> None:
        """Repeats a command to one drone, which answers with its newest acknowledgement (a lost FAILED)."""
        pending = self.pending.get(command_id)
        if pending is not None:
            self._out.append(SendCommand(replace(pending.command, targets=(name,))))

    def new_plan(self) -> dict[str, CommandAck]:
        """Begins a new plan, `plan_id`; returns the dictionary that will hold its acknowledgements."""
        self.plan_id += 1
        acks = self.plan_acks[self.plan_id] = {}
        while len(self.plan_acks) > _KEPT:
            self.plan_acks.popitem(last=False)
        return acks

    def send_trajectories(self, parts: Sequence[Trajectory]) -> None:
        """Sends trajectories of the present plan."""
        self._out += [SendTrajectory(part) for part in parts]

    def request_moderation(self, call: ModerationRequest) -> None:
        """Calls path moderation."""
        self._out.append(RequestModeration(call))

    def on_ack(self, ack: CommandAck) -> None:
        """Stores a drone's acknowledgement of a command or trajectory of this term."""
        if ack.command_id:
            pending = self.pending.get(ack.command_id)
            if pending is not None:
                pending.unacknowledged.discard(ack.drone)
                earlier = pending.acks.get(ack.drone)
                # acknowledgements may be reordered: COMPLETED is not replaced by an older ACCEPTED
                if earlier is None or earlier.status is AckStatus.ACCEPTED:
                    pending.acks[ack.drone] = ack
        elif ack.plan_id in self.plan_acks:
            self.plan_acks[ack.plan_id][ack.drone] = ack

    def resend(self) -> None:
        """Retransmits commands that were not acknowledged in time."""
        for pending in self.pending.values():
            if (
                pending.unacknowledged
                and self._state.now >= pending.resend_s
                and self._state.swarm_ns <= pending.command.deadline_ns
            ):
                pending.resend_s = self._state.now + self._config.retry_s
                self._out.append(
                    SendCommand(replace(pending.command, targets=tuple(sorted(pending.unacknowledged))))
                )

    def cancel(self, name: str) -> None:
        """Stops retransmissions to one drone."""
        for pending in self.pending.values():
            pending.unacknowledged.discard(name)

    def cancel_all(self) -> None:
        """Stops all retransmissions."""
        for pending in self.pending.values():
            pending.unacknowledged.clear()
