"""Certificate cache, with a bounded queue of messages whose signer's certificate is not there yet.

Only certificates issued by the authority are cached, so that outsiders cannot fill the cache. Deferred
messages are bounded in number and bytes; the oldest is dropped.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from ..errors import Rejected, RejectReason
from ..primitives.suite import digest
from ..rate_limit import RateLimiter
from ..wire import ControlKind, ControlMessage
from .identity import CertificateError, CertificateFault, CertifiedMember, Trust, read_member_certificate

_MAX_CERTIFICATES: Final = 8192
_MAX_DEFERRED: Final = 256
_MAX_DEFERRED_BYTES: Final = 8_388_608


class CertificateCache:
    """Member certificates by fingerprint."""

    def __init__(self, trust: Trust, rate_limiter: RateLimiter) -> None:
        self._trust = trust
        self._rate_limiter = rate_limiter
        self._members: dict[bytes, CertifiedMember] = {}
        self._deferred: OrderedDict[tuple[bytes, bytes], ControlMessage] = OrderedDict()
        self._deferred_bytes = 0

    def __len__(self) -> int:
        return len(self._members)

    def add(self, der: bytes, now: float, wall_ns: int) -> CertifiedMember:
        """Validates and caches one. Raises Rejected(DUPLICATE, BUDGET, CERTIFICATE, SWARM or REVOKED).

        An expired or revoked one of the authority is rejected but cached: it maps a revoked serial number to
        its member, and a crypto node's epoch numbers to their issuer.
        """
        if digest(der) in self._members:
            raise Rejected(RejectReason.DUPLICATE)
        if not self._rate_limiter.take(ControlKind.CERTIFICATE, now):
            raise Rejected(RejectReason.BUDGET, "certificate")
        try:
            member = self._trust.certify(der, wall_ns)
        except CertificateError as error:
            reason = {
                CertificateFault.REVOKED: RejectReason.REVOKED,
                CertificateFault.SWARM: RejectReason.SWARM,
            }.get(error.fault, RejectReason.CERTIFICATE)
            if error.fault in (CertificateFault.EXPIRED, CertificateFault.REVOKED):
                self.put(read_member_certificate(der))
            raise Rejected(reason, error.fault.value) from None
        self.put(member)
        return member

    def put(self, member: CertifiedMember) -> None:
        """Caches a certificate without validation (the own ones)."""
        if len(self._members) >= _MAX_CERTIFICATES:
            del self._members[next(iter(self._members))]
        self._members[member.fingerprint] = member

    def get(self, fingerprint: bytes) -> CertifiedMember | None:
        """The member, whether or not the certificate is valid now."""
        return self._members.get(fingerprint)

    def get_valid(self, fingerprint: bytes, wall_ns: int) -> CertifiedMember:
        """The member, if valid now. Raises Rejected(NO_CERTIFICATE, CERTIFICATE or REVOKED)."""
        member = self._members.get(fingerprint)
        if member is None:
            raise Rejected(RejectReason.NO_CERTIFICATE)
        self._trust.check_valid(member, wall_ns)
        return member

    def named(self, name: str) -> list[CertifiedMember]:
        """All cached certificates of that name, whether or not they are valid now."""
        return [member for member in list(self._members.values()) if member.name == name]

    def with_serials(self, serials: frozenset[int]) -> frozenset[bytes]:
        """Fingerprints of the certificates with these serial numbers."""
        members = list(self._members.values()) if serials else []
        return frozenset(member.fingerprint for member in members if member.serial in serials)

    def valid_members(self, wall_ns: int) -> list[CertifiedMember]:
        """All members whose certificates are valid now."""
        return [member for member in list(self._members.values()) if self.is_valid(member, wall_ns)]

    def is_valid(self, member: CertifiedMember, wall_ns: int) -> bool:
        """True if this certificate is valid now."""
        try:
            self._trust.check_valid(member, wall_ns)
        except Rejected:
            return False
        return True

    def defer(self, fingerprint: bytes, message: ControlMessage) -> None:
        """Defers `message` until that certificate is received: topics are not ordered among each other."""
        key = (fingerprint, digest(*message.parts))
        if key in self._deferred:
            return
        self._deferred[key] = message
        self._deferred_bytes += _size(message)
        while len(self._deferred) > _MAX_DEFERRED or self._deferred_bytes > _MAX_DEFERRED_BYTES:
            _, oldest = self._deferred.popitem(last=False)
            self._deferred_bytes -= _size(oldest)

    def take_deferred(self, fingerprint: bytes) -> list[ControlMessage]:
        """Removes and returns the messages deferred for this certificate, in order of arrival."""
        keys = [key for key in self._deferred if key[0] == fingerprint]
        found = [self._deferred.pop(key) for key in keys]
        self._deferred_bytes -= sum(_size(message) for message in found)
        return found


def _size(message: ControlMessage) -> int:
    return sum(len(part) for part in message.parts)
