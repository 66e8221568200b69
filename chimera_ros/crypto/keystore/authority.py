"""Operations with the authority's key on an existing keystore: revoke, renew, sign a newer policy.

In addition to the layout of keystore.py::

    <keystore>/members/<name>/retired/<serial>.pem  superseded certificates, so that they can be revoked
    <keystore>/members/<name>/identity.key.new      renewal in progress: the certificate is replaced first
    <keystore>/policy.sig.new                       policy update in progress: policy.yaml is replaced first

Revocation list and policy are replaced by ones with a higher number; running processes load them.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Final, NamedTuple

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mldsa

from ..errors import KeystoreError
from ..primitives import labels
from ..primitives.providers import provider
from ..trust.certificates import crl_der, extend_crl, make_member, read_crl
from ..trust.identity import (
    CertificateError,
    CertifiedMember,
    MemberIdentity,
    pem_to_der,
    read_member_certificate,
)
from ..trust.policy import load_policy
from ..trust.signed_documents import MAX_DOCUMENT
from .atomic_file import PUBLIC_MODE, SECRET_MODE, replace_durably
from .file_access import read_regular, write_error
from .key_file import MAX_FILE, check_passphrase, is_encrypted, key_pem
from .keystore import Keystore, with_validity

_PEM: Final = serialization.Encoding.PEM
REASONS: Final = ("key-compromise", "superseded", "cessation-of-operation", "unspecified")


class Revocation(NamedTuple):
    """What a revocation has written: the list's number, certificates added to it, and files of superseded
    certificates that cannot be read, so that these were not added.
    """

    crl_number: int
    added: int
    unreadable: tuple[Path, ...] = ()


class AuthorityKeystore(Keystore):
    """A keystore with its authority's key (call `unlock` first, or pass `passphrase`)."""

    def revoke(
        self,
        name: str | None,
        *,
        wall_ns: int,
        reason: str = "key-compromise",
        passphrase: bytes | None = None,
        days: float = 90.0,
        old_only: bool = False,
    ) -> Revocation:
        """Revokes all unexpired certificates of a member.

        name: None only renews the list's dates. old_only: revokes the superseded certificates, not the
        current one. days: validity of the list; an expired list prevents joining only.
        """
        if reason not in REASONS:
            raise KeystoreError(f"{reason!r} is no reason; use one of {', '.join(REASONS)}.")
        with self._locked():
            return self._revoke(name, wall_ns, reason, passphrase, days, old_only)

    def _revoke(
        self,
        name: str | None,
        wall_ns: int,
        reason: str,
        passphrase: bytes | None,
        days: float,
        old_only: bool,
    ) -> Revocation:
        authority = self._authority()
        before = self._crl(authority)
        known = {entry.serial_number for entry in before}
        members, unreadable = ([], ()) if name is None else self._certificates_of(name, old_only)
        serials = {item.serial for item in members if item.not_after_ns >= wall_ns} - known
        if name is not None and not serials:
            state = "is revoked already" if members else "was never renewed"
            not_read = f" Not readable: {', '.join(map(str, unreadable))}." if unreadable else ""
            raise KeystoreError(f"{name} {state}: there is no valid certificate of it to revoke.{not_read}")
        crl = extend_crl(
            authority,
            self._authority_private(passphrase, wall_ns),
            before,
            frozenset(serials),
            reason,
            wall_ns,
            days,
        )
        if len(crl_der(crl)) > MAX_DOCUMENT:
            raise KeystoreError(
                f"the revocation list would be larger than {MAX_DOCUMENT} bytes; make a new keystore instead."
            )
        self._write("crl.pem", crl.public_bytes(_PEM), PUBLIC_MODE)
        return Revocation(read_crl(crl).number, len(serials), unreadable)

    def renew(
        self,
        name: str,
        *,
        wall_ns: int,
        passphrase: bytes | None = None,
        key_passphrase: bytes | None = None,
        days: float = 365.0,
    ) -> MemberIdentity:
        """Issues a new key and certificate for a member, with its name and role. The old certificate remains
        valid until it expires or is revoked (`revoke(old_only=True)`).

        A crash leaves either the old pair or the new one; `load_identity` completes an interrupted renewal.
        """
        check_passphrase(key_passphrase)
        with self._locked():
            return self._renew(name, wall_ns, passphrase, key_passphrase, days)

    def _renew(
        self, name: str, wall_ns: int, passphrase: bytes | None, key_passphrase: bytes | None, days: float
    ) -> MemberIdentity:
        old = self.certificate(name)
        path = self.member_path(name)
        if is_encrypted(path / "identity.key") and not key_passphrase:
            raise KeystoreError(f"the key of {name} is encrypted; give a passphrase for the new one.")
        self._finish_renewal(old, path, key_passphrase)
        key = mldsa.MLDSA87PrivateKey.generate()
        certificate = make_member(
            old.swarm,
            name,
            old.role,
            key.public_key(),
            self._authority(),
            self._authority_private(passphrase, wall_ns),
            wall_ns,
            days,
        )
        try:
            (path / "retired").mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise write_error(path / "retired", error) from None
        old_pem = self._read(f"members/{name}/identity.pem")
        self._write(f"members/{name}/retired/{old.serial:x}.pem", old_pem, PUBLIC_MODE)
        new_pem = certificate.public_bytes(_PEM)
        self._write(f"members/{name}/identity.key.new", key_pem(key, key_passphrase), SECRET_MODE)
        self._write(
            f"members/{name}/identity.pem", new_pem, PUBLIC_MODE
        )  # from here on the new pair is in force
        replace_durably(path / "identity.key.new", path / "identity.key", self._durable)
        return MemberIdentity(read_member_certificate(pem_to_der(new_pem)), provider().signing_key(key))

    def _finish_renewal(self, member: CertifiedMember, path: Path, key_passphrase: bytes | None) -> None:
        """Completes an earlier renewal that was interrupted between certificate and key.

        If its key cannot be opened the member has no usable key, and the renewal in progress replaces it.
        """
        if (path / "identity.key.new").is_file():
            with contextlib.suppress(KeystoreError):
                self._private_key(member, path / "identity.pem", key_passphrase)

    def install_policy(
        self, text: str, *, wall_ns: int, passphrase: bytes | None = None, days: float = 825.0
    ) -> int:
        """Signs and installs a policy with a higher version than the current one; returns its version.

        `swarm`, `issued` and `expires` are added if the text has none of them.
        """
        with self._locked():
            return self._install_policy(text, wall_ns, passphrase, days)

    def _install_policy(self, text: str, wall_ns: int, passphrase: bytes | None, days: float) -> int:
        present = self._policy(self._authority())[0]
        if not any(line.startswith(("swarm:", "issued:", "expires:")) for line in text.splitlines()):
            text = with_validity(text, present.swarm, wall_ns, days)
        policy = load_policy(text, "the new policy")
        if policy.swarm != present.swarm:
            raise KeystoreError(f"the new policy is for swarm {policy.swarm}, not {present.swarm}.")
        if policy.version <= present.version:
            raise KeystoreError(
                f"the new policy has version {policy.version}; it must be higher than {present.version}."
            )
        raw = text.encode()
        if len(raw) > MAX_DOCUMENT:
            raise KeystoreError(f"the new policy is larger than {MAX_DOCUMENT} bytes.")
        signature = self._authority_private(passphrase, wall_ns).sign(raw, labels.SIGN_POLICY)
        self._finish_policy()
        self._write("policy.sig.new", signature, PUBLIC_MODE)
        self._write("policy.yaml", raw, PUBLIC_MODE)  # from here on the new pair is in force
        replace_durably(self.path / "policy.sig.new", self.path / "policy.sig", self._durable)
        return policy.version

    def _finish_policy(self) -> None:
        """Completes an earlier policy update that was interrupted after policy.yaml was replaced."""
        public = self._authority().public_key()
        assert isinstance(public, mldsa.MLDSA87PublicKey)  # else its private key would not have matched
        verify = provider().verify_key(public.public_bytes_raw()).verify
        text = self._read("policy.yaml")
        if verify(self._interrupted_signature(), text, labels.SIGN_POLICY):
            replace_durably(self.path / "policy.sig.new", self.path / "policy.sig", self._durable)

    def _authority_private(self, passphrase: bytes | None, wall_ns: int) -> Any:
        self._check_dates(self._authority(), wall_ns)
        if self._authority_key is None:
            self.unlock(passphrase)
        assert self._authority_key is not None
        return self._authority_key

    def _certificates_of(self, name: str, old_only: bool) -> tuple[list[CertifiedMember], tuple[Path, ...]]:
        """The current certificate and the superseded ones; files of the latter that hold none."""
        found = [] if old_only else [self.certificate(name)]
        unreadable = []
        for path in sorted((self.member_path(name) / "retired").glob("*.pem")):
            try:
                found.append(read_member_certificate(pem_to_der(read_regular(path, MAX_FILE))))
            except (CertificateError, KeystoreError, FileNotFoundError):
                unreadable.append(path)
        return found, tuple(unreadable)
