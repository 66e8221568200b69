"""Locks of a session's identities against other processes of this machine.

A process that has just ended, a look at the lock, or another `chimera command` holds one for a moment; so a
session waits, for a bounded time, before it gives up.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from chimera_ros.crypto.errors import IdentityInUse
from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.crypto.keystore.member_lock import HeldLock

_RETRY_S: Final = 0.05


class IdentityLocks:
    """Locks of all members of a session, from construction to `release`.

    Args:
        wait_s: how long to wait for another process.
        required: False goes on without the locks of members that are still in use then.

    Raises:
        IdentityInUse: another process uses a member. KeystoreError: a lock file cannot be made.
    """

    def __init__(self, keystore: Keystore, members: Sequence[str], wait_s: float, required: bool) -> None:
        self._locks: list[HeldLock] = []
        deadline_s = time.monotonic() + wait_s
        try:
            for name in members:
                self._lock(keystore, name, deadline_s, required)
        except BaseException:
            self.release()
            raise

    def _lock(self, keystore: Keystore, name: str, deadline_s: float, required: bool) -> None:
        while True:
            try:
                self._locks.append(keystore.lock(name))
                return
            except IdentityInUse:
                if time.monotonic() >= deadline_s:
                    if required:
                        raise
                    return
            time.sleep(_RETRY_S)

    def release(self) -> None:
        """Releases all. Does nothing the second time."""
        for lock in self._locks:
            lock.release()
        self._locks.clear()
