"""Effects: actions that a core returns and its shell performs, in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .wire import ControlMessage

Severity = Literal["info", "warning", "error"]
StopLevelName = Literal["hold", "land", "kill"]


@dataclass(frozen=True, slots=True)
class Send:
    """Publish a control message."""

    message: ControlMessage


@dataclass(frozen=True, slots=True)
class Installed:
    """`member` can receive under `epoch` from now on."""

    member: str
    epoch: int
    transcript_hash: bytes


@dataclass(frozen=True, slots=True)
class Switched:
    """`member` sends under `epoch` from now on: latched publishers seal their last sample again."""

    member: str
    epoch: int
    transcript_hash: bytes


@dataclass(frozen=True, slots=True)
class SecurityAlarm:
    """An alarm for the operator."""

    severity: Severity
    text: str


@dataclass(frozen=True, slots=True)
class StopOrder:
    """A verified operator stop; `targets` are the hosted drones it applies to."""

    operator: str
    level: StopLevelName
    targets: tuple[str, ...]
    counter: int


@dataclass(frozen=True, slots=True)
class StopAcked:
    """A drone's verified acknowledgement of a stop of a hosted operator."""

    drone: str
    operator: str
    counter: int


Effect = Send | Installed | Switched | SecurityAlarm | StopOrder | StopAcked
