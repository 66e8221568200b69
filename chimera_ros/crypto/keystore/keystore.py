"""Keystore directory: authority, policy, revocation list, and members' certificates and keys.

Layout::

    <keystore>/authority.pem   self-signed certificate of the authority
    <keystore>/authority.key   its key (PKCS#8, encrypted where a passphrase was given); not needed to fly
    <keystore>/crl.pem         revocation list
    <keystore>/policy.yaml     policy, and policy.sig: the authority's ML-DSA-87 signature over its bytes
    <keystore>/fallback.key    the swarm's pre-shared secret, valid for 24 hours (fallback_secret.py)
    <keystore>/members/<name>/identity.pem, identity.key, state.json, in_use.lock

A drone needs only authority.pem, crl.pem, policy.yaml, policy.sig, fallback.key and its own member
directory.

An entry in `members` that is damaged is named (`entries`) and does not affect the others.

Not handled here: revoking, renewing and newer policies (authority.py), what makes members' state unusable
(inspection.py), hardware keys.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mldsa

from ..encoding import is_name
from ..errors import IdentityInUse, KeyEncrypted, KeystoreError, PolicyError, RankTaken
from ..primitives import labels
from ..primitives.providers import provider
from ..trust import default_policy
from ..trust.certificates import crl_der, make_authority, make_crl, make_member, read_crl, swarm_of
from ..trust.identity import (
    CertificateError,
    CertificateFault,
    CertifiedMember,
    MemberIdentity,
    Trust,
    check_issuer,
    datetime_ns,
    pem_to_der,
    read_member_certificate,
    wall_datetime,
)
from ..trust.policy import Policy, load_policy
from ..trust.rank import RANKS, rank_of
from ..trust.roles import RESERVED_NAMES, Role
from .atomic_file import PUBLIC_MODE, SECRET_MODE, replace_durably, write_atomic
from .fallback_secret import SECRET_BYTES, FallbackSecret, read_secret, write_secret
from .file_access import check_folder, read_error, read_regular, write_error
from .key_file import MAX_FILE, check_passphrase, is_encrypted, key_pem, read_key
from .member_lock import LOCK_FILE, HeldLock, check_unlocked, lock_folder, lock_member
from .member_state import STATE_FILE, FileStore

_PEM: Final = serialization.Encoding.PEM
_COPIES: Final = " from a backup or a member's copy"


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


@dataclass(frozen=True, slots=True)
class DamagedMember:
    """An entry in `members` that cannot be used; `fault` is one sentence with the remedy."""

    name: str
    fault: str


class Keystore:
    """A keystore directory. Every method raises KeystoreError with a sentence that names the remedy."""

    def __init__(self, path: str | os.PathLike[str], durable: bool = True) -> None:
        self.path = Path(path)
        self._durable = durable
        self._authority_key: mldsa.MLDSA87PrivateKey | None = None

    def exists(self) -> bool:
        """True if the directory holds an authority."""
        return (self.path / "authority.pem").is_file()

    @property
    def simulation_only(self) -> bool:
        """True if the authority's key lies beside the members' and is not encrypted, or cannot be read: who
        has this folder can enrol operators.
        """
        key = self.path / "authority.key"
        return os.path.lexists(key) and not is_encrypted(key)

    def member_path(self, name: str) -> Path:
        """Folder of a member. Raises KeystoreError for what is no name."""
        if not is_name(name):
            raise KeystoreError(f"{name!r} is no member name: use 1 to 48 of a-z 0-9 _.")
        return self.path / "members" / name

    def state_store(self, name: str) -> FileStore:
        """The member's state on disk. Lock the member before changing it."""
        return FileStore(self.member_path(name) / STATE_FILE, self._durable)

    def lock(self, name: str) -> HeldLock:
        """Locks a member for this process. Raises IdentityInUse if another process has it."""
        return lock_member(name, self.member_path(name) / LOCK_FILE)

    def check_unlocked(self, name: str) -> None:
        """Raises IdentityInUse if a process uses the member. Changes nothing."""
        check_unlocked(name, self.member_path(name) / LOCK_FILE)

    def lock_swarm(self) -> HeldLock:
        """Locks the keystore for one swarm, beside the locks of its members."""
        lock = lock_folder(self.path / "members")
        if lock is None:
            raise IdentityInUse(
                f"another swarm has just been started with {self.path}; end it, or use another keystore."
            )
        return lock

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
            raise write_error(self.path, error) from None
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
        key = self._read_key(self.path / "authority.key", passphrase)
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
        directory = self.member_path(name)
        if os.path.lexists(directory / "identity.pem"):
            self.certificate(name)  # raises what is wrong with it
            raise KeystoreError(f"{name} is already enrolled in {self.path}.")
        if self._authority_key is None:
            self.unlock(passphrase)
        assert self._authority_key is not None
        authority = self._authority()
        self._check_dates(authority, wall_ns)
        swarm = self._policy(authority)[0].swarm
        key = mldsa.MLDSA87PrivateKey.generate()
        certificate = make_member(
            swarm, name, role, key.public_key(), authority, self._authority_key, wall_ns, days
        )
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(directory, error) from None
        pem = certificate.public_bytes(_PEM)
        with self._locked():
            if os.path.lexists(directory / "identity.pem"):
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
        members, damaged = self.entries()
        others = {
            rank_of(item.name): item.name
            for item in members
            if item.role is Role.CRYPTO and item.name != name and not (item.revoked or item.expired(wall_ns))
        }
        # Who cannot be read may still run with its certificate elsewhere; its role is known by its name only.
        others |= {
            rank_of(item.name): f"the damaged {item.name}"
            for item in damaged
            if item.name != name and item.name.startswith(Role.CRYPTO)
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
        """All members that can be used, by name."""
        return [*self.entries()[0]]

    def entries(self) -> tuple[Sequence[MemberInfo], Sequence[DamagedMember]]:
        """All members, and the entries that are damaged, by name.

        Raises KeystoreError only if authority, revocation list or the folder cannot be read.
        """
        authority = self._authority()
        revoked = read_crl(self._crl(authority)).serials
        members, damaged = [], []
        for name in self._entry_names():
            try:
                if is_name(name):
                    members.append(self._info(self.certificate(name, authority), revoked))
                else:
                    raise KeystoreError(
                        f"{name!r} in {self.path / 'members'} is no member name (1 to 48 of a-z 0-9 _); "
                        "move it out of this folder."
                    )
            except KeystoreError as error:
                damaged.append(DamagedMember(name, str(error)))
        return members, damaged

    def _entry_names(self) -> Sequence[str]:
        """Names in `members` that stand for a member: with a certificate or a key, or not readable."""
        folder = self.path / "members"
        try:
            names = sorted(item.name for item in folder.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise read_error(folder, error) from None
        return [name for name in names if not name.startswith(".") and self._stands_for_member(folder / name)]

    def _stands_for_member(self, folder: Path) -> bool:
        for file in ("identity.pem", "identity.key", "identity.key.new"):
            try:
                (folder / file).lstat()
            except FileNotFoundError:
                continue
            except OSError:  # a file in place of the folder, no access, a loop of links
                return is_name(folder.name)
            return True
        return False

    def show(self, name: str) -> MemberInfo:
        """One member; its dates are not checked (`MemberInfo.expired`)."""
        authority = self._authority()
        return self._info(self.certificate(name, authority), read_crl(self._crl(authority)).serials)

    def _info(self, member: CertifiedMember, revoked: frozenset[int]) -> MemberInfo:
        path = self.member_path(member.name)
        key = path / "identity.key"
        return MemberInfo(
            name=member.name,
            role=member.role,
            swarm=member.swarm,
            fingerprint=member.fingerprint,
            serial=member.serial,
            not_before_ns=member.not_before_ns,
            not_after_ns=member.not_after_ns,
            has_key=os.path.isfile(key),
            key_encrypted=is_encrypted(key),
            revoked=member.serial in revoked,
            certificate_path=path / "identity.pem",
        )

    def check_key(self, name: str) -> None:
        """Raises KeystoreError if the key cannot be used with the certificate.

        An encrypted key is not opened, and a missing one is no fault: the authority needs none.
        """
        der = self.certificate(name).certificate_der
        public = x509.load_der_x509_certificate(der).public_key()
        folder = self.member_path(name)
        faults = []
        for file in ("identity.key", "identity.key.new"):  # the second is that of a renewal in progress
            if not os.path.lexists(folder / file):
                continue
            try:
                if self._read_key(folder / file, None).public_key() == public:
                    return
                faults.append(self._unfit(name))
            except KeyEncrypted:
                return
            except KeystoreError as error:
                faults.append(error)
        if faults:
            raise faults[0]

    def load_identity(
        self,
        name: str,
        *,
        wall_ns: int,
        swarm: str | None = None,
        passphrase: bytes | None = None,
        trust: Trust | None = None,
    ) -> MemberIdentity:
        """A member's identity, after checks of issuer, dates, revocation, swarm and key.

        trust: what `load_trust` has returned, so that it is not read again for each of several members.
        """
        check_folder(self.member_path(name))
        member = self.certificate(name)
        path = self.member_path(name) / "identity.pem"
        try:
            trust = trust or self.load_trust(wall_ns=wall_ns, swarm=swarm)
            trust.check_member(member, wall_ns)
        except CertificateError as error:
            until = f" (valid until {wall_datetime(member.not_after_ns):%Y-%m-%d %H:%M} UTC)"
            detail = until if error.fault is CertificateFault.EXPIRED else ""
            raise KeystoreError(f"{path}: the certificate of {name} {error.fault.value}{detail}.") from None
        key = provider().signing_key(self._private_key(member, path, passphrase))
        probe = key.sign(b"key and certificate agree", labels.SIGN_SELF_TEST)
        if not member.verify(probe, b"key and certificate agree", labels.SIGN_SELF_TEST):
            raise self._unfit(name)
        return MemberIdentity(member, key)

    def _unfit(self, name: str) -> KeystoreError:
        key = self.member_path(name) / "identity.key"
        return KeystoreError(
            f"{key} does not fit identity.pem; restore the key, or make new ones with "
            f"`chimera keys renew {name} --keystore {self.path}`."
        )

    def _private_key(
        self, member: CertifiedMember, path: Path, passphrase: bytes | None
    ) -> mldsa.MLDSA87PrivateKey:
        """The key that matches the certificate; completes a renewal interrupted between the two."""
        new = path.with_name("identity.key.new")
        if new.is_file():
            public = x509.load_der_x509_certificate(member.certificate_der).public_key()
            try:
                key = self._read_key(new, passphrase)
            except KeystoreError:  # of an interrupted renewal, perhaps with another passphrase
                old = self._read_key(path.with_name("identity.key"), passphrase)
                if old.public_key() != public:
                    raise
                return old
            if key.public_key() == public:
                replace_durably(new, path.with_name("identity.key"), self._durable)
                return key
        return self._read_key(path.with_name("identity.key"), passphrase)

    def load_trust(self, *, wall_ns: int, swarm: str | None = None) -> Trust:
        """Authority, policy and revocation list, verified. `swarm`: the expected one."""
        for folder in (self.path, self.path / "members"):
            check_folder(folder)
        authority = self._authority()
        policy, raw, signature = self._policy(authority)
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
        self._check_dates(authority, max(wall_ns, trust.wall_floor_ns))
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
            return read_regular(self.path / "policy.sig.new", MAX_FILE)
        except (FileNotFoundError, KeystoreError):
            return b""

    def _write(self, name: str, data: bytes, mode: int) -> None:
        write_atomic(self.path / name, data, mode, self._durable)

    def _read(self, name: str) -> bytes:
        path = self.path / name
        try:
            return read_regular(path, MAX_FILE)
        except FileNotFoundError:
            raise KeystoreError(
                f"{path} is missing; make a keystore with `chimera keys create`, or restore it{_COPIES}."
            ) from None

    def _authority(self) -> x509.Certificate:
        path = self.path / "authority.pem"
        try:
            certificate = x509.load_pem_x509_certificate(self._read("authority.pem"))
            fits = isinstance(certificate.public_key(), mldsa.MLDSA87PublicKey)
        except (ValueError, UnsupportedAlgorithm):
            raise KeystoreError(f"{path} is no certificate; restore it{_COPIES}.") from None
        if not fits:
            raise KeystoreError(f"{path}: the key is not ML-DSA-87; restore it{_COPIES}.")
        return certificate

    def _check_dates(self, authority: x509.Certificate, wall_ns: int) -> None:
        """Raises KeystoreError outside of the validity of the authority's own certificate."""
        start, end = authority.not_valid_before_utc, authority.not_valid_after_utc
        path = self.path / "authority.pem"
        if wall_ns < datetime_ns(start):
            raise KeystoreError(
                f"{path}: the authority's certificate is valid from {start:%Y-%m-%d %H:%M} UTC only, later "
                "than this machine's clock; set the clock."
            )
        if wall_ns > datetime_ns(end):
            raise KeystoreError(
                f"{path}: the authority's certificate expired on {end:%Y-%m-%d %H:%M} UTC; make a new "
                "keystore."
            )

    def _policy(self, authority: x509.Certificate) -> tuple[Policy, bytes, bytes]:
        """The present policy, its text and its signature, verified before the text is parsed."""
        path = self.path / "policy.yaml"
        public = authority.public_key()
        assert isinstance(public, mldsa.MLDSA87PublicKey)
        raw = self._read("policy.yaml")
        signer = provider().verify_key(public.public_bytes_raw())
        signature = self._read("policy.sig")
        if not signer.verify(signature, raw, labels.SIGN_POLICY):
            signature = self._interrupted_signature()
        if not signer.verify(signature, raw, labels.SIGN_POLICY):
            raise KeystoreError(
                f"{path} was changed after it was signed (or signed by another "
                "authority); restore it, or sign it again with the authority's key."
            )
        try:
            return load_policy(raw, str(path)), raw, signature
        except PolicyError as error:
            raise PolicyError(f"{str(error).rstrip('.')}; restore it{_COPIES}.") from None

    def _crl(self, authority: x509.Certificate) -> x509.CertificateRevocationList:
        path = self.path / "crl.pem"
        try:
            crl = x509.load_pem_x509_crl(self._read("crl.pem"))
        except ValueError:
            raise KeystoreError(f"{path} is no revocation list; restore it{_COPIES}.") from None
        if not crl.is_signature_valid(authority.public_key()):  # type: ignore[arg-type]  # stubs lag: no ML-DSA
            raise KeystoreError(f"{path} was not signed by this keystore's authority; restore it{_COPIES}.")
        return crl

    def certificate(self, name: str, authority: x509.Certificate | None = None) -> CertifiedMember:
        """A member's certificate, after checks of issuer, name and swarm; its dates are not checked."""
        authority = authority or self._authority()
        folder = self.member_path(name)
        path = folder / "identity.pem"
        instead = (
            f"restore it{_COPIES}, or move {folder} away and run `chimera keys enroll {name} ROLE "
            f"--keystore {self.path}`"
        )
        try:
            der = pem_to_der(read_regular(path, MAX_FILE))
            member = read_member_certificate(der)
            check_issuer(der, authority)
        except FileNotFoundError:
            raise self._not_enrolled(name) from None
        except CertificateError as error:
            raise KeystoreError(f"{path}: the certificate {error.fault.value}; {instead}.") from None
        if member.name != name:
            raise KeystoreError(
                f"{path} is the certificate of {member.name}, not of {name}; rename the folder to "
                f"{member.name}, or {instead}."
            )
        swarm = swarm_of(authority)
        if swarm not in ("", member.swarm):
            raise KeystoreError(
                f"{path}: the certificate belongs to swarm {member.swarm}, this keystore to {swarm}; "
                f"{instead}."
            )
        return member

    def _read_key(self, path: Path, passphrase: bytes | None) -> mldsa.MLDSA87PrivateKey:
        again = f"make new ones with `chimera keys renew {path.parent.name} --keystore {self.path}`"
        return read_key(path, passphrase, "make another keystore" if path.parent == self.path else again)

    def _not_enrolled(self, name: str) -> KeystoreError:
        path = self.member_path(name) / "identity.pem"
        enroll = f"`chimera keys enroll {name} ROLE --keystore {self.path}`"
        if os.path.lexists(path.with_name("identity.key")):
            return KeystoreError(
                f"{path} is missing: there is a key without its certificate; restore it{_COPIES}, or make "
                f"both new with {enroll}."
            )
        known = [item for item in self._entry_names() if is_name(item)]
        some = f" It holds {', '.join(known[:6])}{' …' if len(known) > 6 else ''}." if known else ""
        return KeystoreError(
            f"{path} is missing: {name} is not enrolled in this keystore; use {enroll}.{some}"
        )


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
