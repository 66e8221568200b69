"""What `chimera swarm`, launch and `chimera preflight` check about a swarm's identities before a start.

Their files on disk, as every member's process will use them; whether they are in use on this machine; whether
they are alive in the ROS domain.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chimera_ros import key_passphrase
from chimera_ros.commands.errors import MISUSE, CommandFailed
from chimera_ros.commands.machine import environment
from chimera_ros.launcher.spec import SwarmSpec
from chimera_ros.ros.environment import DOMAIN, domain_of
from chimera_ros.swarm import NAMESPACE, OPERATOR_MEMBER
from chimera_ros.terminal.lines import print_line

if TYPE_CHECKING:
    from chimera_ros.crypto.keystore.keystore import Keystore
    from chimera_ros.crypto.keystore.member_lock import HeldLock
    from chimera_ros.crypto.keystore.member_state import StateStore, StoredState
    from chimera_ros.crypto.trust.identity import Trust

LISTEN_LIMIT_S = 20.0  # for a second of listening, and the start of Python and ROS on a busy machine
_NAMED = 3  # members in a sentence


def check_identities(spec: SwarmSpec, listener: DomainListener) -> None:
    """Check the identities of a swarm that is about to start, as far as they are enrolled.

    Raises:
        CommandFailed: status 1 for files that a member cannot use, 2 if an identity is in use already.
    """
    from chimera_ros.crypto.keystore.keystore import Keystore

    keystore = Keystore(spec.keystore)
    if not keystore.exists():
        return
    names = [name for name, _ in spec.members() if _is_enrolled(keystore, name)]
    faults = disk_faults(keystore, names, spec.key_passphrase_file)
    if faults:
        others = f" `chimera preflight` names {len(faults) - 1} more." if len(faults) > 1 else ""
        raise CommandFailed(faults[0] + others)
    live = listener.faults("chimera swarm")
    if live:
        raise CommandFailed(live[0], MISUSE)
    used = lock_faults(keystore, names)
    if used:
        raise CommandFailed(f"{used[0]} Nothing was heard of it in {listener.place}.", MISUSE)


def hold_keystore(path: Path) -> HeldLock:
    """Lock a keystore while its swarm flies: of two that start at the same moment, one goes on.

    Raises:
        CommandFailed: another one flies with this keystore.
    """
    from chimera_ros.crypto.errors import CryptoError
    from chimera_ros.crypto.keystore.keystore import Keystore

    try:
        return Keystore(path).lock_swarm()
    except CryptoError as error:
        raise CommandFailed(str(error), MISUSE) from None


def keystore_reasons(spec: SwarmSpec, *, simulated: bool = False) -> list[str]:
    """Why a swarm cannot fly with its keystore, for `chimera preflight`. That of simulations is made and
    completed by the start.
    """
    from chimera_ros.crypto.errors import CryptoError
    from chimera_ros.crypto.keystore.keystore import Keystore

    keystore = Keystore(spec.keystore)
    if simulated and not keystore.exists():
        return []
    names = [name for name, _ in spec.members() if not simulated or _is_enrolled(keystore, name)]
    faults = disk_faults(keystore, names, spec.key_passphrase_file)
    try:
        keystore.fallback()
    except CryptoError as error:
        faults.append(str(error))
    return faults + lock_faults(keystore, names)


def domain_reasons(spec: SwarmSpec) -> list[str]:
    """Why a swarm cannot start in the ROS domain, for `chimera preflight`."""
    return DomainListener(spec).faults("chimera preflight")


def disk_faults(keystore: Keystore, names: Sequence[str], passphrase_file: str = "") -> list[str]:
    """What the processes of these members could not read, write or start with."""
    from chimera_ros.crypto.errors import CryptoError
    from chimera_ros.crypto.keystore.inspection import keystore_faults, merged

    wall_ns = time.time_ns()
    try:
        trust = keystore.load_trust(wall_ns=wall_ns)
        passphrase = key_passphrase.find(passphrase_file)
        faults = {name: _member_faults(keystore, trust, name, wall_ns, passphrase) for name in names}
    except (CryptoError, OSError, key_passphrase.PassphraseError) as error:
        return [str(error)]
    return keystore_faults(keystore, names) + merged(keystore, faults)


def _member_faults(
    keystore: Keystore, trust: Trust, name: str, wall_ns: int, passphrase: bytes | None
) -> list[str]:
    from chimera_ros.crypto.errors import CryptoError
    from chimera_ros.crypto.keystore.inspection import member_faults
    from chimera_ros.crypto.member.host import SecureHost

    if _is_enrolled(keystore, name):
        faults = member_faults(keystore, name)
        if faults:
            return faults
    try:
        identity = keystore.load_identity(name, wall_ns=wall_ns, passphrase=passphrase, trust=trust)
        # Refuses what the member's session would refuse, such as a policy older than it has seen.
        store = _UnchangedStore(keystore.state_store(name))
        SecureHost([identity], dataclasses.replace(trust), {name: store}).close()
    except CryptoError as error:
        return [str(error)]
    return []


class _UnchangedStore:
    """A member's store for a check, which writes nothing."""

    def __init__(self, store: StateStore) -> None:
        self._store = store

    def load(self) -> StoredState:
        return self._store.load()

    def save(self, state: StoredState) -> None:
        """Does nothing."""

    def flush(self) -> None:
        """Does nothing."""

    def load_document(self, name: str) -> bytes:
        return self._store.load_document(name)

    def save_document(self, name: str, data: bytes) -> None:
        """Does nothing."""


def lock_faults(keystore: Keystore, names: Sequence[str]) -> list[str]:
    """A sentence if another process of this machine uses one of these identities.

    The operator's is left out: its commands wait for each other.
    """
    from chimera_ros.crypto.errors import IdentityInUse, KeystoreError

    used = []
    for name in names:
        try:
            if name != OPERATOR_MEMBER:
                keystore.check_unlocked(name)
        except IdentityInUse as error:
            used.append(str(error))
        except KeystoreError:
            continue  # found by `disk_faults`
    others = f" So are {len(used) - 1} more of its members." if len(used) > 1 else ""
    return [used[0] + others] if used else []


class DomainListener:
    """Listens for identities of the swarm's processes in the ROS domain, in a process of its own.

    It listens from construction on, beside whatever the caller does until it calls `faults`.
    """

    def __init__(self, spec: SwarmSpec) -> None:
        from chimera_ros.crypto.keystore.keystore import Keystore

        self._spec = spec
        self._names = [name for name, _ in spec.members() if name != OPERATOR_MEMBER]
        self._process: subprocess.Popen[bytes] | None = None
        self._problem = ""
        if not Keystore(spec.keystore).exists():
            return  # its identities are made for this start
        module = [sys.executable, "-m", "chimera_ros.ros.live_members"]
        try:
            self._process = subprocess.Popen(
                [*module, str(spec.keystore), spec.namespace, *self._names],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=os.environ | environment(),
                start_new_session=True,
            )
            weakref.finalize(self, _end, self._process)
        except OSError as error:
            self._problem = error.strerror or str(error)

    def faults(self, command: str) -> list[str]:
        """A sentence if identities are alive already. Where nobody can listen this is said on standard error,
        and no fault.
        """
        live = self._live()
        if self._problem:
            print_line(
                f"{command}: not checked whether this swarm is alive in {self.place}: {self._problem}",
                error=True,
            )
        if not live:
            return []
        some = ", ".join(live[:_NAMED]) + _more(len(live) - _NAMED, "members")
        return [
            f"{some} of keystore {self._spec.keystore} {'are' if len(live) > 1 else 'is'} alive already in "
            f"{self.place}; end that swarm, or choose another {DOMAIN} for this one."
        ]

    @property
    def place(self) -> str:
        """Domain and namespace, for messages."""
        return f"ROS domain {domain_of(os.environ)}, namespace {self._spec.namespace}"

    def _live(self) -> list[str]:
        if self._process is None:
            return []
        try:
            output, errors = self._process.communicate(timeout=LISTEN_LIMIT_S)
            found = json.loads(output)
            if not isinstance(found, dict):
                raise ValueError
            self._problem = str(found.get("skipped", ""))
            return [name for name in self._names if name in found.get("live", ())]
        except subprocess.TimeoutExpired:
            self._problem = f"no answer within {LISTEN_LIMIT_S:g} s"
        except ValueError:
            lines = errors.decode(errors="replace").splitlines()
            self._problem = lines[-1] if lines else f"exit status {self._process.returncode}"
        return []


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends a listener that nobody waits for any more."""
    process.kill()
    process.wait()


def place_suffix(namespace: str) -> str:
    """What distinguishes the keystores of simulations in different ROS domains and namespaces, which may fly
    at the same time; empty for domain 0 and the default namespace.
    """
    domain = domain_of(os.environ)
    of_domain = f"_domain_{int(domain)}" if re.fullmatch(r"0*[1-9][0-9]{0,2}", domain) else ""
    return of_domain + (
        "" if namespace == NAMESPACE else re.sub(r"[^a-z0-9]+", "_", f"_in{namespace.lower()}")
    )


def _is_enrolled(keystore: Keystore, name: str) -> bool:
    return os.path.lexists(keystore.member_path(name) / "identity.pem")


def _more(count: int, of_what: str) -> str:
    return f" and {count} more {of_what}" if count > 0 else ""
