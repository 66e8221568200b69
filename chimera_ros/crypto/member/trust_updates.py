"""Updates of the revocation list and the policy in flight: verified, higher, stored, then applied.

Both are signed by the authority, so any process may forward them. Each member stores them beside its state
file, because the keystore that the process started from may be older than they are.

Not handled here: a policy with another suite or swarm and new signature check rates; they need a restart.
"""

from __future__ import annotations

from ..effects import Effect, SecurityAlarm
from ..encoding import malformed, var
from ..errors import KeystoreError, Rejected, RejectReason
from ..keystore.member_state import CRL_FILE, POLICY_FILE
from ..messages.body import opening, read_opening
from ..trust.signed_documents import MAX_DOCUMENT, Document, TrustFiles, read_signed_crl, read_signed_policy
from ..wire import ControlKind, ControlMessage
from .context import MemberContext


class TrustUpdates:
    """Documents from the network (`on_update`) or from a keystore on disk (`take_crl`, `take_policy`)."""

    def __init__(self, context: MemberContext) -> None:
        self.taken = False  # a document came in flight
        self._context = context
        self._trust = context.trust
        self._members = tuple(context.members.values())

    def messages(self) -> list[ControlMessage]:
        """The documents in force, for processes that may lack them."""
        trust = self._trust
        found = []
        if trust.crl_der:
            found.append(self._message(Document.CRL, trust.crl_der, b""))
        if trust.policy_text:
            found.append(self._message(Document.POLICY, trust.policy_text, trust.policy_signature))
        return found

    def _message(self, kind: Document, content: bytes, signature: bytes) -> ControlMessage:
        body = opening(self._trust.swarm) + bytes((kind,)) + var(content)
        return ControlMessage(ControlKind.TRUST, (body, signature))

    def on_update(self, message: ControlMessage, now: float, wall_ns: int) -> tuple[list[Effect], Document]:
        """(effects, what was taken over) of an update from the network.

        Raises Rejected or KeystoreError; then nothing has changed.
        """
        body, signature = message.parts
        reader = read_opening(body, self._trust.swarm)
        kind = reader.u8()
        content = reader.var(MAX_DOCUMENT)
        reader.end()
        if content in (self._trust.crl_der, self._trust.policy_text):
            raise Rejected(RejectReason.DUPLICATE)
        if not self._context.rate_limiter.take(ControlKind.TRUST, now):
            raise Rejected(RejectReason.BUDGET, "trust")
        if kind == Document.CRL and not signature:
            return self.take_crl(content), Document.CRL
        if kind == Document.POLICY:
            return self.take_policy(content, signature, wall_ns), Document.POLICY
        raise malformed("unknown document")

    def take_file(self, document: Document, files: TrustFiles, wall_ns: int) -> tuple[list[Effect], bool]:
        """(effects, taken over) for a document on our own disk; an alarm if it is new and refused."""
        name = "crl.pem" if document is Document.CRL else "policy.yaml"
        try:
            if document is Document.CRL and files.crl_der != self._trust.crl_der:
                return self.take_crl(files.crl_der), True
            if document is Document.POLICY and files.policy_text != self._trust.policy_text:
                return self.take_policy(files.policy_text, files.policy_signature, wall_ns), True
        except (Rejected, KeystoreError) as error:
            return [SecurityAlarm("error", f"{name} on disk was not taken over: {error}")], False
        return [], False

    def take_crl(self, der: bytes) -> list[Effect]:
        """Raises Rejected(STALE) for a number that is not higher, and what `read_signed_crl` raises."""
        crl = read_signed_crl(der, self._trust.authority)
        if crl.number <= self._trust.crl.number:
            raise Rejected(
                RejectReason.STALE, f"revocation list {crl.number}, but {self._trust.crl.number} is in force"
            )
        for member in self._members:
            member.save_document(CRL_FILE, der, crl_number=crl.number)
        self._trust.crl, self._trust.crl_der = crl, der
        self._context.sessions.revoke(self._revoked())
        effects: list[Effect] = [SecurityAlarm("info", f"revocation list {crl.number} is in force")]
        effects += [
            SecurityAlarm("error", f"the certificate of {member.name} has been revoked")
            for member in self._members
            if member.identity.member.serial in crl.serials
        ]
        self.taken = True
        return effects

    def take_policy(self, text: bytes, signature: bytes, wall_ns: int) -> list[Effect]:
        """Applies to epochs announced from now on; open ones keep theirs.

        Raises Rejected(STALE) for a version that is not higher, and what `read_signed_policy` raises.
        """
        policy = read_signed_policy(text, signature, self._trust)
        if policy.version <= self._trust.policy.version:
            raise Rejected(
                RejectReason.STALE, f"policy {policy.version}, but {self._trust.policy.version} is in force"
            )
        if max(wall_ns, self._trust.wall_floor_ns) > policy.expires_ns:
            raise Rejected(RejectReason.AGE, f"policy {policy.version} has expired")
        blob = var(text) + var(signature)
        for member in self._members:
            member.save_document(POLICY_FILE, blob, policy_version=policy.version)
        trust = self._trust
        trust.policy, trust.policy_text, trust.policy_signature = policy, text, signature
        self._context.sessions.limits = policy.limits
        self.taken = True
        return [SecurityAlarm("info", f"policy {policy.version} applies from the next epoch on")]

    def _revoked(self) -> frozenset[bytes]:
        """Fingerprints of the known certificates that the list in force names."""
        return self._context.certificates.with_serials(self._trust.crl.serials)
