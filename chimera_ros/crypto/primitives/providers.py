"""Which library computes ML-DSA-87 and ML-KEM-1024 in this process: OpenSSL or liboqs.

`CHIMERA_CRYPTO_PROVIDER` (auto, openssl, liboqs) or `select` chooses; without either it is `auto`: liboqs
where its library and `liboqs-python` are found and pass the self test, otherwise OpenSSL. The order is fixed,
not measured at start: liboqs signs and verifies faster than OpenSSL with AVX2 (8 and 5 times) and in plain C
(1.8 and 1.3 times), and these decide. Nothing is ever downloaded or built.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from threading import RLock
from typing import Final

from ..errors import ProviderError
from .interfaces import Provider
from .openssl import OpenSslProvider

VARIABLE: Final = "CHIMERA_CRYPTO_PROVIDER"
NAMES: Final = ("auto", "openssl", "liboqs")

_lock: Final = RLock()
_chosen: Choice | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """The provider in use, its name, and why it was chosen (a phrase for people)."""

    provider: Provider
    name: str
    why: str


def openssl() -> Choice:
    """The provider that is always there."""
    return Choice(OpenSslProvider(), "openssl", "as configured")


def liboqs() -> Choice:
    """The faster one. Raises ProviderError with a phrase that says what is missing."""
    from .liboqs import load

    provider, what = load()
    return Choice(provider, "liboqs", what)


def find(wanted: str = "auto") -> Choice:
    """What `select` would choose; changes nothing. Raises ProviderError."""
    if wanted not in NAMES:
        raise ProviderError(f"{wanted!r} is no crypto provider; use auto, openssl or liboqs ({VARIABLE}).")
    if wanted == "openssl":
        return openssl()
    try:
        return liboqs()
    except ProviderError as error:
        if wanted == "liboqs":
            raise ProviderError(f"the crypto provider liboqs cannot be used: {error}.") from None
        return Choice(OpenSslProvider(), "openssl", str(error))


def select(wanted: str | None = None) -> Choice:
    """Chooses for this process; keys made before keep their provider. Raises ProviderError.

    `wanted` None means what the environment says.
    """
    global _chosen
    if wanted is None:
        wanted = os.environ.get(VARIABLE, "").strip() or "auto"
    with _lock:
        _chosen = find(wanted)
        return _chosen


def current() -> Choice:
    """The choice in force; made on first use. Raises ProviderError."""
    chosen = _chosen
    if chosen is not None:
        return chosen
    with _lock:
        return _chosen or select()


def provider() -> Provider:
    """The provider in force. Raises ProviderError."""
    return current().provider
