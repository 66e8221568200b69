"""What the follower core and the leader core ask their shells to do."""

from __future__ import annotations

from dataclasses import dataclass

from .messages import CommandAck, SwarmCommand, Trajectory
from .moderation_call import ModerationRequest
from .vehicle import Order, Setpoint


@dataclass(frozen=True, slots=True)
class SendAck:
    """Publish this acknowledgement on `<drone>/ack`."""

    ack: CommandAck


@dataclass(frozen=True, slots=True)
class GiveOrder:
    """Hand this order to the autopilot bridge; its outcome comes back through `on_order_result`."""

    order: Order


@dataclass(frozen=True, slots=True)
class GiveSetpoint:
    """Hand this setpoint to the autopilot bridge."""

    setpoint: Setpoint


@dataclass(frozen=True, slots=True)
class FlightAlarm:
    """Something a person must read; one sentence."""

    text: str


@dataclass(frozen=True, slots=True)
class SendCommand:
    """Publish this command on `leader/command`."""

    command: SwarmCommand


@dataclass(frozen=True, slots=True)
class SendTrajectory:
    """Publish this trajectory on `leader/trajectory`."""

    trajectory: Trajectory


@dataclass(frozen=True, slots=True)
class MissionEvent:
    """Something happened in the mission: `kind` is one word for machines, `text` one sentence for people.

    Kinds: waiting, started, step, step_done, lost, found, replanned, moderation, abort, finished, failed.
    """

    kind: str
    text: str


FollowerEffect = SendAck | GiveOrder | GiveSetpoint | FlightAlarm


@dataclass(frozen=True, slots=True)
class AskModeration:
    """Ask path moderation; the answer comes back through `on_moderation` or `on_moderation_failed`."""

    call: ModerationRequest


LeaderEffect = SendCommand | SendTrajectory | MissionEvent | AskModeration
