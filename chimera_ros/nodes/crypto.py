"""Crypto node: the key server, active or standby, and the swarm's clock."""

from __future__ import annotations

import sys

from chimera_ros.crypto.key_server.server import KeyServerConfig
from chimera_ros.node_parameters import CryptoParameters
from chimera_ros.nodes.member_node import MemberNode
from chimera_ros.records.process_status import CryptoStatus
from chimera_ros.ros import names
from chimera_ros.ros.executor import run_node
from chimera_ros.ros.session import SecureSession, SessionConfig
from chimera_ros.srv import EvictMember, RotateEpoch

from .entropy import Entropy

STATUS_S = 0.5
MAX_REASON = 200  # EvictMember.reason


class CryptoNode(MemberNode[CryptoParameters]):
    """Admits members, announces epochs, and executes rekey and eviction orders of operators.

    Only the active node issues epochs; a standby takes over when its beats cease.
    """

    def __init__(self) -> None:
        super().__init__("crypto", CryptoParameters)
        self._entropy: Entropy | None = None
        self._reported = 0

    def setup(self) -> None:
        """Load keys, create the key server."""
        values = self.parameters
        self._entropy = Entropy(values.entropy)
        key_server = KeyServerConfig(rotate_s=values.rotation_s, draw=self._entropy.pool.draw)
        self._session = session = SecureSession(
            self,
            member=values.member,
            keystore=values.keystore,
            passphrase=self.key_passphrase(),
            config=SessionConfig(key_server=key_server),
            autostart=False,
        )
        session.create_service(RotateEpoch, names.CRYPTO_ROTATE, self._on_rotate)
        self._evictions = session.create_service(EvictMember, names.CRYPTO_EVICT, self._on_evict)

    def begin(self) -> None:
        """Join the swarm, start the entropy sources."""
        assert self._entropy is not None
        self.session.start()
        self._entropy.start(self.session)
        self._status_timer = self.create_steady_timer(STATUS_S, self._report_status)

    def pause(self) -> None:
        """Stop reporting."""
        self.destroy_timer(self._status_timer)

    def close(self) -> None:
        """Leave the swarm."""
        if self._entropy is not None:
            self._entropy.close()
            self._entropy = None
        super().close()

    def _on_rotate(self, request: RotateEpoch.Request, sender: str) -> RotateEpoch.Response | None:
        # The policy lets only operators publish on the request channel.
        session = self.session
        assert session.key_server is not None
        if not session.in_charge:
            return None  # the active node receives the request as well
        session.rotate("manual")
        epoch = session.key_server.status()["epoch"] or 0
        return RotateEpoch.Response(accepted=True, epoch=epoch, reason=f"ordered by {sender}")

    def _on_evict(self, request: EvictMember.Request, sender: str) -> EvictMember.Response | None:
        # An operator's verified request; the key server checks the role again.
        session = self.session
        assert session.key_server is not None
        if not session.in_charge:
            return None
        verdict = session.evict(request.member, sender, self._evictions.evidence)
        return EvictMember.Response(
            accepted=verdict.accepted, epoch=verdict.epoch, reason=verdict.reason[:MAX_REASON]
        )

    def _report_status(self) -> None:
        session = self._session
        if session is None or session.key_server is None or self._entropy is None:
            return
        self._entropy.publish_state(session)
        status = session.key_server.status()
        durations = status["rekey_ms"]
        fresh = status["rekeys"] - self._reported
        self.report(
            CryptoStatus(
                active=status["in_charge"],
                epoch=status["epoch"],
                members=tuple(status["members"]),
                rotations=status["rotations"],
                rekey_ms=tuple(durations[max(0, len(durations) - fresh) :] if fresh else ()),
                entropy=self._entropy.pool.summary(),
            )
        )
        self._reported = status["rekeys"]


def main(args: list[str] | None = None) -> int:
    """Run a crypto node."""
    return run_node(CryptoNode, args)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
