"""Keystore directory: authority, policy, revocation list, and members' certificates and keys.

Layout::

    <keystore>/authority.pem   self-signed certificate of the authority
    <keystore>/authority.key   its key (PKCS#8, encrypted where a passphrase was given); not needed to fly
    <keystore>/crl.pem         revocation list
    <keystore>/policy.yaml     policy, and policy.sig: the authority's ML-DSA-87 signature over its bytes
    <keystore>/fallback.key    the swarm's pre-shared secret, valid for 24 hours (fallback_secret.py)
    <keystore>/members/<name>/identity.pem, identity.key, state.json

A drone needs only authority.pem, crl.pem, policy.yaml, policy.sig, fallback.key and its own member
directory.

Not handled here: revoking, renewing and newer policies (authority.py), hardware keys.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mldsa

from chimera_ros.formats.text import FormatError, read_bytes

from ..encoding import is_name
from ..errors import KeystoreError, RankTaken
from ..primitives import labels
from ..primitives.providers import provider
from ..trust import default_policy
from ..trust.certificates import crl_der, make_authority, make_crl, make_member, read_crl
from ..trust.identity import (
    CertificateError,
    CertificateFault,
    CertifiedMember,
    MemberIdentity,
    Trust,
    check_issuer,
    pem_to_der,
    read_member_certificate,
    wall_datetime,
)
from ..trust.policy import load_policy
from ..trust.rank import RANKS, rank_of
from ..trust.roles import RESERVED_NAMES, Role
from .atomic_file import PUBLIC_MODE, SECRET_MODE, replace_durably, write_atomic
from .fallback_secret import SECRET_BYTES, FallbackSecret, read_secret, write_secret
from .member_state import FileStore

_PEM: Final = serialization.Encoding.PEM
MAX_PASSPHRASE: Final = 1023  # bytes; OpenSSL takes no more
MAX_FILE: Final = 1_048_576  # bytes


@dataclass(frozen=True, slots=True)
class MemberInfo:
    """Summary of an enrolled member. Times in ns since the Unix epoch; `fingerprint` is BLAKE3-256."""

    name: str
    role: Role
    swarm: str
    fingerprint: bytes
    serial: int
    not_before_ns: int
    not_after_ns: int
    has_key: bool
    key_encrypted: bool
    revoked: bool
    certificate_path: Path

    def expired(self, wall_ns: int) -> bool:
        """True if the certificate has expired."""
        return wall_ns > self.not_after_ns


class Keystore:
    """A keystore directory. Every method raises KeystoreError with a sentence that names the remedy."""

    def __init__(self, path: str | os.PathLike[str], durable: bool = True) -> None:
        self.path = Path(path)
        self._durable = durable
        self._authority_key: mldsa.MLDSA87PrivateKey | None = None

    def exists(self) -> bool:
        """True if the directory holds an authority."""
        return (self.path / "authority.pem").is_file()

    def state_path(self, name: str) -> Path:
        """Path of the member's state file."""
        return self._member_path(name) / "state.json"

    def state_store(self, name: str) -> FileStore:
        """The member's state on disk."""
        return FileStore(self.state_path(name), self._durable)

    # Creation

    def create(
        self,
        swarm: str,
        *,
        wall_ns: int,
        passphrase: bytes | None = None,
        policy_text: str | None = None,
        days: float = 825.0,
    ) -> None:
        """Creates authority, empty revocation list and signed policy; fails if there is a keystore.

        `policy_text` is a policy without `swarm`, `issued` and `expires` (they are added), by default
        config/policy.yaml. `passphrase` encrypts the authority's key.
        """
        if not is_name(swarm):
            raise KeystoreError(f"{swarm!r} is no swarm name: use 1 to 48 of a-z 0-9 _.")
        if self.exists():
            raise KeystoreError(
                f"{self.path} already holds a keystore; choose another directory or delete it."
            )
        if any((self.path / "members").glob("*/identity.pem")):
            raise KeystoreError(
                f"{self.path} holds members but no authority.pem; restore it (a new one would overwrite "
                "the key of the old one), or choose another directory."
            )
        check_passphrase(passphrase)
        text = default_policy.TEXT if policy_text is None else policy_text
        text = with_validity(text, swarm, wall_ns, days)
        load_policy(text, "the policy")
        try:
            is_new = not self.path.is_dir() or not any(self.path.iterdir())
            (self.path / "members").mkdir(mode=0o700, parents=True, exist_ok=True)
            if is_new:  # a directory in use keeps its mode; secret files have their own
                self.path.chmod(0o700)
        except OSError as error:
            raise KeystoreError(f"{self.path}: cannot make the directory ({error.strerror}).") from None
        key = mldsa.MLDSA87PrivateKey.generate()
        certificate = make_authority(swarm, key, wall_ns, days)
        crl = make_crl(certificate, key, 1, frozenset(), wall_ns, days)
        with self._locked():
            if self.exists():
                raise KeystoreError(
                    f"{self.path} already holds a keystore; another process has just made it."
                )
            self._write("authority.key", key_pem(key, passphrase), SECRET_MODE)
            self._write("crl.pem", crl.public_bytes(_PEM), PUBLIC_MODE)
            self._write("policy.yaml", text.encode(), PUBLIC_MODE)
            self._write("policy.sig", key.sign(text.encode(), labels.SIGN_POLICY), PUBLIC_MODE)
            self.renew_fallback(wall_ns)
            self._write(
                "authority.pem", certificate.public_bytes(_PEM), PUBLIC_MODE
            )  # last: marks the keystore as complete
        self._authority_key = key

    def renew_fallback(self, wall_ns: int) -> FallbackSecret:
        """Makes a new fallback secret, valid for 24 hours; every member needs a copy of the file."""
        secret = FallbackSecret(wall_ns, os.urandom(SECRET_BYTES))
        write_secret(self.path, secret, self._durable)
        return secret

    def fallback(self) -> FallbackSecret | None:
        """The fallback secret, valid or expired, or None."""
        return read_secret(self.path)

    def unlock(self, passphrase: bytes | None = None) -> None:
        """Loads the authority's key, which must match authority.pem."""
        key = _read_key(self.path / "authority.key", passphrase)
        if key.public_key() != self._authority().public_key():
            raise KeystoreError(
                f"{self.path / 'authority.key'} does not fit authority.pem; restore the one that does."
            )
        self._authority_key = key

    def enroll(
        self,
        name: str,
        role: Role | str,
        *,
        wall_ns: int,
        passphrase: bytes | None = None,
        key_passphrase: bytes | None = None,
        days: float = 365.0,
    ) -> MemberIdentity:
        """Issues a member's key and certificate. `passphrase` decrypts the authority's key, `key_passphrase`
        encrypts the member's.
        """
        role = _role(role)
        if not is_name(name):
            raise KeystoreError(f"{name!r} is no member name: use 1 to 48 of a-z 0-9 _.")
        if name in RESERVED_NAMES and RESERVED_NAMES[name] is not role:
            raise KeystoreError(
                f"The name {name} is reserved for role {RESERVED_NAMES[name]}; choose another."
            )
        check_passphrase(key_passphrase)
        self.check_rank(name, role, wall_ns)
        directory = self._member_path(name)
        if (directory / "identity.pem").exists():
            raise KeystoreError(f"{name} is already enrolled in {self.path}.")
        if self._authority_key is None:
            self.unlock(passphrase)
        assert self._authority_key is not None
        authority = self._authority()
        swarm = self._swarm()
        key = mldsa.MLDSA87PrivateKey.generate()
        certificate = make_member(
            swarm, name, role, key.public_key(), authority, self._authority_key, wall_ns, days
        )
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise KeystoreError(f"{directory}: cannot make the directory ({error.strerror}).") from None
        pem = certificate.public_bytes(_PEM)
        with self._locked():
            if (directory / "identity.pem").exists():
                raise KeystoreError(f"{name} has just been enrolled in {self.path} by another process.")
            self.check_rank(name, role, wall_ns)
            self._write(f"members/{name}/identity.key", key_pem(key, key_passphrase), SECRET_MODE)
            self._write(f"members/{name}/identity.pem", pem, PUBLIC_MODE)
        return MemberIdentity(read_member_certificate(pem_to_der(pem)), provider().signing_key(key))

    def check_rank(self, name: str, role: Role | str, wall_ns: int) -> None:
        """Raises RankTaken for a crypto node with the rank of an enrolled one, as both would announce the
        same epoch numbers. Revoked and expired ones do not count.
        """
        if role != Role.CRYPTO:
            return
        rank = rank_of(name)
        others = {
            rank_of(item.name): item.name
            for item in self.list()
            if item.role is Role.CRYPTO and item.name != name and not (item.revoked or item.expired(wall_ns))
        }
        if rank not in others:
            return
        free = [f"crypto_{number}" for number in range(RANKS) if number not in others]
        advice = f"choose {' or '.join(free)}" if free else "all ranks are taken: revoke one first"
        raise RankTaken(
            f"{name} would have rank {rank}, which {others[rank]} has: a crypto node's rank is the _0 to _3 "
            f"that its name ends in, otherwise 0; {advice}."
        )

    # Reading

    def list(self) -> list[MemberInfo]:
        """All members, by name."""
        self._authority()
        directory = self.path / "members"
        names = sorted(item.parent.name for item in directory.glob("*/identity.pem"))
        return [self.show(name) for name in names]

    def show(self, name: str) -> MemberInfo:
        """One member; its dates are not checked (`MemberInfo.expired`)."""
        member = self._certificate(name)
        path = self._member_path(name)
        key = path / "identity.key"
        return MemberInfo(
            name=member.name,
            role=member.role,
            swarm=member.swarm,
            fingerprint=member.fingerprint,
            serial=member.serial,
            not_before_ns=member.not_before_ns,
            not_after_ns=member.not_after_ns,
            has_key=key.is_file(),
            key_encrypted=_is_encrypted(key),
            revoked=member.serial in read_crl(self._crl(self._authority())).serials,
            certificate_path=path / "identity.pem",
        )

    def load_identity(
        self, name: str, *, wall_ns: int, swarm: str | None = None, passphrase: bytes | None = None
    ) -> MemberIdentity:
        """A member's identity, after checks of issuer, dates, revocation, swarm and key."""
        member = self._certificate(name)
        path = self._member_path(name) / "identity.pem"
        try:
            self.load_trust(wall_ns=wall_ns, swarm=swarm).check_member(member, wall_ns)
        except CertificateError as error:
            until = f" (valid until {wall_datetime(member.not_after_ns):%Y-%m-%d %H:%M} UTC)"
            detail = until if error.fault is CertificateFault.EXPIRED else ""
            raise KeystoreError(f"{path}: the certificate of {name} {error.fault.value}{detail}.") from None
        key = provider().signing_key(self._private_key(member, path, passphrase))
        probe = key.sign(b"key and certificate agree", labels.SIGN_SELF_TEST)
        if not member.verify(probe, b"key and certificate agree", labels.SIGN_SELF_TEST):
            raise KeystoreError(
                f"{path.with_name('identity.key')} does not fit {path.name}; enrol {name} again."
            )
        return MemberIdentity(member, key)

    def _private_key(
        self, member: CertifiedMember, path: Path, passphrase: bytes | None
    ) -> mldsa.MLDSA87PrivateKey:
        """The key that matches the certificate; completes a renewal interrupted between the two."""
        new = path.with_name("identity.key.new")
        if new.is_file():
            public = x509.load_der_x509_certificate(member.certificate_der).public_key()
            try:
                key = _read_key(new, passphrase)
            except KeystoreError:  # of an interrupted renewal, perhaps with another passphrase
                old = _read_key(path.with_name("identity.key"), passphrase)
                if old.public_key() != public:
                    raise
                return old
            if key.public_key() == public:
                replace_durably(new, path.with_name("identity.key"), self._durable)
                return key
        return _read_key(path.with_name("identity.key"), passphrase)

    def load_trust(self, *, wall_ns: int, swarm: str | None = None) -> Trust:
        """Authority, policy and revocation list, verified. `swarm`: the expected one."""
        authority = self._authority()
        public = authority.public_key()
        if not isinstance(public, mldsa.MLDSA87PublicKey):
            raise KeystoreError(
                f"{self.path / 'authority.pem'}: the key is not ML-DSA-87; create a new keystore."
            )
        raw = self._read("policy.yaml")
        signer = provider().verify_key(public.public_bytes_raw())
        signature = self._read("policy.sig")
        if not signer.verify(signature, raw, labels.SIGN_POLICY):
            signature = self._interrupted_signature()
        if not signer.verify(signature, raw, labels.SIGN_POLICY):
            raise KeystoreError(
                f"{self.path / 'policy.yaml'} was changed after it was signed (or signed by another "
                "authority); restore it, or sign it again with the authority's key."
            )
        policy = load_policy(raw, str(self.path / "policy.yaml"))
        if swarm is not None and policy.swarm != swarm:
            raise KeystoreError(
                f"{self.path} belongs to swarm {policy.swarm}, not {swarm}; "
                "give the right --keystore or --swarm."
            )
        crl = self._crl(authority)
        trust = Trust(authority, policy, read_crl(crl), crl_der(crl), raw, signature)
        if max(wall_ns, trust.wall_floor_ns) > policy.expires_ns:
            raise KeystoreError(
                f"{self.path / 'policy.yaml'} expired on {wall_datetime(policy.expires_ns):%Y-%m-%d}; "
                "raise its version and expiry and sign it again."
            )
        return trust

    # Internal

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Locks the directory: of two concurrent revocations one would be lost."""
        with contextlib.ExitStack() as stack:
            try:
                folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
                stack.callback(os.close, folder)
                fcntl.flock(folder, fcntl.LOCK_EX)
            except OSError as error:
                raise KeystoreError(f"{self.path}: cannot lock the directory ({error.strerror}).") from None
            yield

    def _interrupted_signature(self) -> bytes:
        """Signature of a policy whose update was interrupted after policy.yaml was replaced; else empty."""
        try:
            return (self.path / "policy.sig.new").read_bytes()
        except OSError:
            return b""

    def _member_path(self, name: str) -> Path:
        if not is_name(name):
            raise KeystoreError(f"{name!r} is no member name: use 1 to 48 of a-z 0-9 _.")
        return self.path / "members" / name

    def _write(self, name: str, data: bytes, mode: int) -> None:
        write_atomic(self.path / name, data, mode, self._durable)

    def _read(self, name: str) -> bytes:
        path = self.path / name
        try:
            return read_bytes(path, MAX_FILE)
        except FormatError as error:
            raise KeystoreError(f"{path}: {error}.") from None
        except FileNotFoundError:
            raise KeystoreError(f"{path} is missing; make a keystore with `chimera keys create`.") from None
        except OSError as error:
            raise KeystoreError(f"{path}: cannot read ({error.strerror}).") from None

    def _authority(self) -> x509.Certificate:
        try:
            return x509.load_pem_x509_certificate(self._read("authority.pem"))
        except ValueError:
            raise KeystoreError(f"{self.path / 'authority.pem'} is no certificate; restore it.") from None

    def _swarm(self) -> str:
        return load_policy(self._read("policy.yaml"), "policy.yaml").swarm

    def _crl(self, authority: x509.Certificate) -> x509.CertificateRevocationList:
        path = self.path / "crl.pem"
        try:
            crl = x509.load_pem_x509_crl(self._read("crl.pem"))
        except ValueError:
            raise KeystoreError(f"{path} is no revocation list; restore it.") from None
        if not crl.is_signature_valid(authority.public_key()):  # type: ignore[arg-type]  # stubs lag: no ML-DSA
            raise KeystoreError(f"{path} was not signed by this keystore's authority; restore it.")
        return crl

    def _certificate(self, name: str) -> CertifiedMember:
        path = self._member_path(name) / "identity.pem"
        if not path.is_file():
            known = sorted(item.parent.name for item in (self.path / "members").glob("*/identity.pem"))
            some = f" It holds {', '.join(known[:6])}{' …' if len(known) > 6 else ''}." if known else ""
            raise KeystoreError(
                f"{path} is missing: {name} is not enrolled in this keystore; "
                f"use `chimera keys enroll {name}`.{some}"
            )
        try:
            der = pem_to_der(self._read(f"members/{name}/identity.pem"))
            member = read_member_certificate(der)
            check_issuer(der, self._authority())
        except CertificateError as error:
            raise KeystoreError(f"{path}: the certificate {error.fault.value}.") from None
        if member.name != name:
            raise KeystoreError(f"{path} is the certificate of {member.name}, not of {name}.")
        return member


def _role(role: Role | str) -> Role:
    try:
        return Role(role)
    except ValueError:
        raise KeystoreError(f"{role!r} is no role; use one of {', '.join(Role)}.") from None


def with_validity(text: str, swarm: str, wall_ns: int, days: float) -> str:
    """A policy with swarm and dates, at its end: line numbers in errors stay those of the text."""
    start = wall_datetime(wall_ns)
    end = wall_datetime(wall_ns + int(days * 86400e9))
    return f"{text}\nswarm: {swarm}\nissued: {start:%Y-%m-%dT%H:%M:%SZ}\nexpires: {end:%Y-%m-%dT%H:%M:%SZ}\n"


def check_passphrase(passphrase: bytes | None) -> None:
    """Raises KeystoreError if the passphrase is too long."""
    if passphrase is not None and len(passphrase) > MAX_PASSPHRASE:
        raise KeystoreError(
            f"the passphrase has {len(passphrase)} bytes; allowed are at most {MAX_PASSPHRASE}."
        )


def key_pem(key: mldsa.MLDSA87PrivateKey, passphrase: bytes | None) -> bytes:
    """PKCS#8 PEM of a private key, encrypted with the passphrase if there is one."""
    encryption = (
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    )
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, encryption)


def _is_encrypted(path: Path) -> bool:
    try:
        return b"BEGIN ENCRYPTED PRIVATE KEY" in path.read_bytes()
    except OSError:
        return False


def _read_key(path: Path, passphrase: bytes | None) -> mldsa.MLDSA87PrivateKey:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise KeystoreError(
                f"{path} can be read by others (mode {mode:04o}); run `chmod 600 {path}`, "
                "and if others may have read it, revoke this key and make a new one."
            )
        pem = read_bytes(path, MAX_FILE)
    except FormatError as error:
        raise KeystoreError(f"{path}: {error}.") from None
    except FileNotFoundError:
        raise KeystoreError(f"{path} is missing; copy it here with mode 0600, or enrol again.") from None
    except OSError as error:
        raise KeystoreError(f"{path}: cannot read ({error.strerror}).") from None
    encrypted = b"BEGIN ENCRYPTED PRIVATE KEY" in pem
    if encrypted and not passphrase:
        raise KeystoreError(f"{path} is encrypted; give its passphrase.")
    try:
        key = serialization.load_pem_private_key(pem, passphrase if encrypted else None)
    except (ValueError, TypeError):
        hint = "the passphrase is wrong" if encrypted else "it is no PKCS#8 key"
        raise KeystoreError(f"{path}: cannot open the key, {hint}.") from None
    if not isinstance(key, mldsa.MLDSA87PrivateKey):
        raise KeystoreError(f"{path} is not an ML-DSA-87 key; enrol again.")
    return key
