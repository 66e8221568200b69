"""Configuration of a session beyond the swarm's policy."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from chimera_ros.crypto.key_server.server import KeyServerConfig
from chimera_ros.crypto.member.host import HostConfig


@cache
def _pool() -> ThreadPoolExecutor:
    # More than cores: a join also waits for the disk.
    return ThreadPoolExecutor(max_workers=8, thread_name_prefix="chimera_seal")


def _in_parallel(function: Callable[[Any], Any], things: Iterable[Any]) -> Iterable[Any]:
    """`map` in threads, for seeds and state files: both release the GIL."""
    return _pool().map(function, things)


def host_config(*, verify_checkpoints: bool = True, keep_evidence: bool = False) -> HostConfig:
    """Host configuration for a session, with a thread pool of the process as `mapper`."""
    return HostConfig(mapper=_in_parallel, verify_checkpoints=verify_checkpoints, keep_evidence=keep_evidence)


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """Options of a `SecureSession`.

    crypto_provider: auto, openssl or liboqs for the whole process; empty: the value of
        CHIMERA_CRYPTO_PROVIDER.
    lock_wait_s: how long to wait for another process of this machine that uses a member's identity.
    lock_required: False goes on then, which only a stop may do: both processes change the member's state.
    """

    host: HostConfig = field(default_factory=host_config)
    key_server: KeyServerConfig = field(default_factory=KeyServerConfig)
    synchronise_clock: bool = True  # measure the offset to the crypto node
    crypto_provider: str = ""
    lock_wait_s: float = 1.0
    lock_required: bool = True
