"""Effects: what the follower core and the leader core return for their shells to carry out."""

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
class SendOrder:
    """Send this order to the autopilot bridge; its result returns through `on_order_result`."""

    order: Order


@dataclass(frozen=True, slots=True)
class SendSetpoint:
    """Send this setpoint to the autopilot bridge."""

    setpoint: Setpoint


@dataclass(frozen=True, slots=True)
class FlightAlarm:
    """Alarm for people; one sentence."""

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
    """Event of the mission: `kind` is one word for programs, `text` one sentence for people.

    Kinds: waiting, started, step, step_done, lost, found, replanned, moderation, abort, finished, failed.
    """

    kind: str
    text: str


FollowerEffect = SendAck | SendOrder | SendSetpoint | FlightAlarm


@dataclass(frozen=True, slots=True)
class RequestModeration:
    """Call path moderation; the answer returns through `on_moderation` or `on_moderation_failed`."""

    call: ModerationRequest


LeaderEffect = SendCommand | SendTrajectory | MissionEvent | RequestModeration
