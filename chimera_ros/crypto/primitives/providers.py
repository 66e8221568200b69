"""Selection of the provider of ML-DSA-87 and ML-KEM-1024 in this process: OpenSSL or liboqs.

`CHIMERA_CRYPTO_PROVIDER` (auto, openssl, liboqs) or `select` chooses; the default is `auto`: liboqs where its
library and `liboqs-python` are found and pass the self test, otherwise OpenSSL. The order is fixed, because
liboqs signs and verifies faster than OpenSSL with AVX2 (8 and 5 times) and in plain C (1.8 and 1.3 times).
Nothing is ever downloaded or built.
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
    """The provider in use, its name, and a phrase that says why it was chosen."""

    provider: Provider
    name: str
    reason: str


def openssl() -> Choice:
    """The OpenSSL provider."""
    return Choice(OpenSslProvider(), "openssl", "as configured")


def liboqs() -> Choice:
    """The liboqs provider. Raises ProviderError with a phrase that says what is missing."""
    from .liboqs import load

    provider, description = load()
    return Choice(provider, "liboqs", description)


def find(wanted: str = "auto") -> Choice:
    """The choice that `select` would make. Raises ProviderError."""
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
    """Selects the provider of this process; existing keys keep theirs. Raises ProviderError.

    `wanted` None: as the environment says.
    """
    global _chosen
    if wanted is None:
        wanted = os.environ.get(VARIABLE, "").strip() or "auto"
    with _lock:
        _chosen = find(wanted)
        return _chosen


def current() -> Choice:
    """The choice in force, made on first use. Raises ProviderError."""
    chosen = _chosen
    if chosen is not None:
        return chosen
    with _lock:
        return _chosen or select()


def provider() -> Provider:
    """The provider in force. Raises ProviderError."""
    return current().provider
