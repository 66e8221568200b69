"""A newer revocation list or policy reaches a process in flight: verified, higher, stored, then obeyed.

Both are signed by the authority, so anybody may carry them. What a process has taken over stands on the disk
of each of its members beside the state file, because the keystore that it started from may be older by then.

Not handled here: a policy with another suite or swarm (that needs a restart), and new rates of the budgets.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import mldsa

from . import labels
from .budgets import Purse
from .certificates import read_crl
from .directory import Directory
from .effects import Alarm, Effect
from .encoding import Reader, malformed, var
from .errors import KeystoreError, PolicyError, Rejected
from .identity import CrlView, Trust
from .joining import opening, read_opening
from .member import Member
from .policy import Policy, load_policy
from .providers import provider
from .reasons import Reason
from .sessions import Sessions
from .store import StateStore
from .wire import SIGNATURE_BYTES, ControlKind, ControlMessage

MAX_DOCUMENT: Final = 262_144
CRL_FILE: Final = "crl.der"
POLICY_FILE: Final = "policy.signed"


class Document(IntEnum):
    """What a TrustUpdate carries."""

    CRL = 1
    POLICY = 2


@dataclass(frozen=True, slots=True)
class TrustFiles:
    """The documents as bytes: revocation list (DER), policy (YAML), the authority's signature over that."""

    crl_der: bytes
    policy_text: bytes
    policy_signature: bytes


def read_signed_crl(der: bytes, authority: x509.Certificate) -> CrlView:
    """A revocation list of this authority. Raises Rejected(SIZE, MALFORMED or SIGNATURE)."""
    if len(der) > MAX_DOCUMENT:
        raise Rejected(Reason.SIZE, f"revocation list of {len(der)} bytes, at most {MAX_DOCUMENT}")
    try:
        crl = x509.load_der_x509_crl(der)
        key: Any = authority.public_key()  # the type stubs do not know ML-DSA here yet
        good = crl.issuer == authority.subject and crl.is_signature_valid(key)
        view = read_crl(crl) if good else None
    except Exception:  # the parser raises many types on hostile input; every one means the same
        raise malformed("not a revocation list") from None
    if view is None:
        raise Rejected(Reason.SIGNATURE, "the revocation list is not of this swarm's authority")
    return view


def read_signed_policy(text: bytes, signature: bytes, trust: Trust) -> Policy:
    """A policy of this authority for the same swarm and suite.

    Raises Rejected(SIZE, SIGNATURE, MALFORMED, SWARM or SUITE).
    """
    if len(text) > MAX_DOCUMENT:
        raise Rejected(Reason.SIZE, f"policy of {len(text)} bytes, at most {MAX_DOCUMENT}")
    public = trust.authority.public_key()
    assert isinstance(public, mldsa.MLDSA87PublicKey)
    if not provider().verify_key(public.public_bytes_raw()).verify(signature, text, labels.SIGN_POLICY):
        raise Rejected(Reason.SIGNATURE, "the policy is not signed by this swarm's authority")
    try:
        policy = load_policy(text.decode("utf-8", "replace"))
    except PolicyError as error:
        raise malformed(str(error)) from None
    if policy.swarm != trust.swarm:
        raise Rejected(Reason.SWARM, policy.swarm)
    if policy.suite != trust.policy.suite:
        raise Rejected(Reason.SUITE, f"{policy.suite}: another suite needs a restart of the whole swarm")
    return policy


def freshest(trust: Trust, stores: Iterable[StateStore]) -> Trust:
    """A copy of `trust` with the highest documents that one of the members took over in flight."""
    best = dataclasses.replace(trust)
    for store in stores:
        try:
            der = store.load_document(CRL_FILE)
            crl = read_signed_crl(der, trust.authority) if der else None
            if crl is not None and crl.number > best.crl.number:
                best.crl, best.crl_der = crl, der
            blob = store.load_document(POLICY_FILE)
            if blob:
                reader = Reader(blob)
                text, signature = reader.var(MAX_DOCUMENT), reader.var(SIGNATURE_BYTES)
                policy = read_signed_policy(text, signature, best)
                if policy.version > best.policy.version:
                    best.policy, best.policy_text, best.policy_signature = policy, text, signature
        except Rejected:
            continue  # damaged: if it was newer, the member's state says so and refuses to start
    return best


class TrustDesk:
    """Documents from the network (`on_update`) or from a keystore on disk (`take_crl`, `take_policy`).

    `on_change` is called after something was taken over: the key server acts on it.
    """

    def __init__(
        self,
        trust: Trust,
        members: Iterable[Member],
        directory: Directory,
        sessions: Sessions,
        purse: Purse,
    ) -> None:
        self.on_change: Callable[[Document, float, int], list[Effect]] | None = None
        self.taken = False  # something came in flight
        self._trust = trust
        self._members = tuple(members)
        self._directory = directory
        self._sessions = sessions
        self._purse = purse

    def messages(self) -> list[ControlMessage]:
        """What is in force, to be sent to whoever may lack it."""
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

    def on_update(self, message: ControlMessage, now: float, wall_ns: int) -> list[Effect]:
        """From the network. Raises Rejected or KeystoreError; then nothing has changed."""
        body, signature = message.parts
        reader = read_opening(body, self._trust.swarm)
        kind = reader.u8()
        content = reader.var(MAX_DOCUMENT)
        reader.end()
        if content in (self._trust.crl_der, self._trust.policy_text):
            raise Rejected(Reason.DUPLICATE)
        if not self._purse.take(ControlKind.TRUST, now):
            raise Rejected(Reason.BUDGET, "trust")
        if kind == Document.CRL and not signature:
            return self.take_crl(content, now, wall_ns)
        if kind == Document.POLICY:
            return self.take_policy(content, signature, now, wall_ns)
        raise malformed("unknown document")

    def take_files(self, files: TrustFiles, now: float, wall_ns: int) -> tuple[list[Effect], bool]:
        """(effects, was anything taken over?) for documents on our own disk. What is no good is told."""
        effects: list[Effect] = []
        taken = False
        for name, new in (
            ("crl.pem", files.crl_der != self._trust.crl_der),
            ("policy.yaml", files.policy_text != self._trust.policy_text),
        ):
            if not new:
                continue
            try:
                if name == "crl.pem":
                    effects += self.take_crl(files.crl_der, now, wall_ns)
                else:
                    effects += self.take_policy(files.policy_text, files.policy_signature, now, wall_ns)
                taken = True
            except (Rejected, KeystoreError) as error:
                effects.append(Alarm("error", f"{name} on disk was not taken over: {error}"))
        return effects, taken

    def take_crl(self, der: bytes, now: float, wall_ns: int) -> list[Effect]:
        """Raises Rejected(STALE) for a number that is not higher, and what `read_signed_crl` raises."""
        crl = read_signed_crl(der, self._trust.authority)
        if crl.number <= self._trust.crl.number:
            raise Rejected(
                Reason.STALE, f"revocation list {crl.number}, but {self._trust.crl.number} is in force"
            )
        for member in self._members:
            member.remember_document(CRL_FILE, der, crl_number=crl.number)
        self._trust.crl, self._trust.crl_der = crl, der
        self._sessions.bar(self._revoked())
        effects: list[Effect] = [Alarm("info", f"revocation list {crl.number} is in force")]
        effects += [
            Alarm("error", f"the certificate of {member.name} has been revoked")
            for member in self._members
            if member.identity.member.serial in crl.serials
        ]
        return effects + self._changed(Document.CRL, now, wall_ns)

    def take_policy(self, text: bytes, signature: bytes, now: float, wall_ns: int) -> list[Effect]:
        """It applies to epochs announced from now on; those that are open keep theirs.

        Raises Rejected(STALE) for a version that is not higher, and what `read_signed_policy` raises.
        """
        policy = read_signed_policy(text, signature, self._trust)
        if policy.version <= self._trust.policy.version:
            raise Rejected(
                Reason.STALE, f"policy {policy.version}, but {self._trust.policy.version} is in force"
            )
        if max(wall_ns, self._trust.wall_floor_ns) > policy.expires_ns:
            raise Rejected(Reason.AGE, f"policy {policy.version} has expired")
        blob = var(text) + var(signature)
        for member in self._members:
            member.remember_document(POLICY_FILE, blob, policy_version=policy.version)
        trust = self._trust
        trust.policy, trust.policy_text, trust.policy_signature = policy, text, signature
        self._sessions.limits = policy.limits
        effects: list[Effect] = [Alarm("info", f"policy {policy.version} applies from the next epoch on")]
        return effects + self._changed(Document.POLICY, now, wall_ns)

    def _changed(self, kind: Document, now: float, wall_ns: int) -> list[Effect]:
        self.taken = True
        return self.on_change(kind, now, wall_ns) if self.on_change else []

    def _revoked(self) -> frozenset[bytes]:
        """Fingerprints of certificates seen here that the list in force names."""
        return self._directory.with_serials(self._trust.crl.serials)
