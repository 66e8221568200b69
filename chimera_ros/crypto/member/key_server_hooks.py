"""Calls from the control plane into a key server of the same process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ..effects import Effect
from ..messages.announcement import Head
from ..messages.control import Beat, KeyRequest
from ..trust.identity import CertifiedMember
from ..trust.signed_documents import Document
from ..wire import ControlMessage


class PeerObserver(Protocol):
    """Failover of the key server (key_server/failover.py). All that is passed to it was verified."""

    @property
    def active(self) -> bool: ...
    def on_request(self, request: KeyRequest, issuer: CertifiedMember, now: float, wall_ns: int) -> None: ...
    def on_beat(self, beat: Beat, issuer: CertifiedMember, now: float) -> list[Effect]: ...
    def on_head(self, head: Head, issuer: CertifiedMember, now: float) -> list[Effect]: ...


@dataclass(frozen=True, slots=True)
class KeyServerHooks:
    """on_package: a key package, also one that waited for a certificate. on_trust: a newer revocation list or
    policy was taken over from the network.
    """

    peers: PeerObserver
    on_package: Callable[[ControlMessage, float, int], list[Effect]]
    on_trust: Callable[[Document, float, int], list[Effect]]
