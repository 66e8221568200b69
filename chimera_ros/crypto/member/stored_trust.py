"""Signed documents on a member's disk: the revocation list and policy that it took over in flight."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from ..encoding import Reader
from ..errors import Rejected
from ..keystore.member_state import CRL_FILE, POLICY_FILE, StateStore
from ..trust.identity import Trust
from ..trust.signed_documents import MAX_DOCUMENT, read_signed_crl, read_signed_policy
from ..wire import SIGNATURE_BYTES


def newest_trust(trust: Trust, stores: Iterable[StateStore]) -> Trust:
    """A copy of `trust` with the highest documents that a member took over in flight."""
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
            continue  # damaged: if it was newer, the member refuses to start by its stored number
    return best
