"""No secret in anything that people, logs, networks or disks get to see: a small swarm lives through joining,
rotation, eviction, loss of its crypto node and fallback, and every secret it ever had is looked for.
"""

from __future__ import annotations

import base64
import gc
import json
import logging
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from chimera_ros.cli import main
from chimera_ros.crypto.effects import SecurityAlarm
from chimera_ros.crypto.errors import CryptoError, NotReady, Rejected
from chimera_ros.crypto.keystore.fallback_secret import FallbackSecret
from chimera_ros.crypto.keystore.keystore import Keystore
from chimera_ros.crypto.member import fallback
from chimera_ros.crypto.member.security_state import SecurityState
from chimera_ros.crypto.primitives import key_schedule, labels, openssl, providers
from chimera_ros.crypto.testing.swarm import WALL_START_NS, Swarm
from chimera_ros.crypto.trust.identity import MemberIdentity

LEAST = 16  # bytes: the public salts of senders are shorter
PAYLOAD = b"top-secret-position-0123456789"


class Secrets:
    """Everything secret that was ever made, by what it is."""

    def __init__(self) -> None:
        self.found: dict[bytes, str] = {}

    def add(self, what: str, value: bytes) -> bytes:
        assert len(value) >= LEAST
        self.found.setdefault(bytes(value), what)
        return value

    def forms(self) -> Iterator[tuple[str, str]]:
        """(what, text) in which a secret, or its first bytes, could stand in a text."""
        for value, what in self.found.items():
            yield what, value[:8].hex()
            yield what, value[:8].hex().upper()
            yield what, base64.b64encode(value[:12]).decode()
            yield what, base64.urlsafe_b64encode(value[:12]).decode()
            yield what, repr(value[:8])[2:-1]
            yield what, ", ".join(map(str, value[:6]))
            yield what, str(int.from_bytes(value))

    def assert_absent(self, texts: set[str], raw: list[bytes]) -> None:
        whole, data = "\n".join(texts), b"\n".join(raw)
        for what, form in self.forms():
            assert form not in whole, f"{what} stands in a text"
        for value, what in self.found.items():
            assert value[:LEAST] not in data, f"{what} stands in a message or file"


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Secrets:
    made = Secrets()
    monkeypatch.setattr(providers, "_chosen", providers.openssl())

    def extracting(module: Any) -> None:
        real = module.extract

        def extract(salt: bytes, material: bytes) -> bytes:
            made.add("a seed or shared secret", material)
            return made.add("an epoch secret", real(salt, material))

        monkeypatch.setattr(module, "extract", extract)

    def expanding(module: Any) -> None:
        real = module.expand

        def expand(key: bytes, info: bytes, length: int) -> bytes:
            value: bytes = real(key, info, length)
            if info != labels.KEY_TAG:  # that one is public
                made.add(f"a key expanded in {module.__name__}", value)
                for at in range(0, length - 63, 64):
                    made.add("a lane key", value[at : at + 64])
            return value

        monkeypatch.setattr(module, "expand", expand)

    for module in (key_schedule, fallback):
        extracting(module)
        expanding(module)
    make = openssl.OpenSslPackageKey.__init__

    def making(self: Any, kem: Any, curve: Any) -> None:
        made.add("a package's private key", kem.private_bytes_raw())
        make(self, kem, curve)

    monkeypatch.setattr(openssl.OpenSslPackageKey, "__init__", making)
    return made


def private_bytes(identity: MemberIdentity) -> bytes:
    return identity.key._key.private_bytes_raw()  # type: ignore[attr-defined]


def shown_objects() -> set[str]:
    """What `repr` and `str` show of every living object of this package."""
    texts = set()
    for item in gc.get_objects():
        kind = type(item)
        if str(kind.__module__).startswith("chimera_ros.") and (
            kind.__repr__ is not object.__repr__ or isinstance(item, BaseException)
        ):
            texts |= {repr(item), str(item)}
    return texts


def refusals(swarm: Swarm) -> set[str]:
    """Exceptions with their traces, provoked in all the ways of a bad network."""
    texts = set()
    wire = swarm.wire
    good = swarm.host_of("drone_01").seal("drone_01/telemetry", "T", PAYLOAD, wire.wall_ns, "drone_01")
    host = swarm.hosts["leader"]
    bad = [good._replace(**change) for change in (
        {"sealed": good.sealed[:-1] + bytes((good.sealed[-1] ^ 1,))},
        {"sealed": b""},
        {"epoch": 77},
        {"sender": 99},
        {"lane": 9},
        {"signature": b"x"},
    )]  # fmt: skip
    for envelope in (*bad, good, good):
        try:
            texts.add(repr(host.open("drone_01/telemetry", "T", envelope, wire.wall_ns)))
        except Rejected as error:
            texts |= {repr(error), str(error), "".join(traceback.format_exception(error))}
    return texts


def talk(swarm: Swarm) -> None:
    """Every drone says something, and every process opens it."""
    wire = swarm.wire
    for name in ("drone_01", "drone_02", "drone_03"):
        envelope = swarm.host_of(name).seal(f"{name}/telemetry", "T", PAYLOAD, wire.wall_ns, name)
        for group, host in swarm.hosts.items():
            if name not in swarm.groups[group]:
                host.open(f"{name}/telemetry", "T", envelope, wire.wall_ns)


def test_no_secret_is_shown_logged_sent_or_stored(
    secrets: Secrets, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    swarm = Swarm(drones=3, shards=2, operator=True)
    for identity in swarm.identities.values():
        secrets.add("a member's private key", private_bytes(identity))
    secrets.add("the authority's private key", swarm.keystore.key.private_bytes_raw())
    secret = secrets.add("the fallback secret", swarm.draw("fallback secret")(64))
    swarm.fallback = FallbackSecret(WALL_START_NS, secret)
    wire = swarm.wire
    swarm.join()
    texts: set[str] = set()
    first = swarm.epochs()["leader"] or 0
    talk(swarm)
    texts |= refusals(swarm)
    wire.perform("crypto", swarm.server.rotate("manual", wire.now, wire.wall_ns))
    wire.run_until(lambda: swarm.together(first))
    talk(swarm)
    texts |= shown_objects()
    swarm.kill("crypto")
    wire.run(33.0)
    assert all(host.degraded(wire.wall_ns) for host in swarm.hosts.values())
    texts |= refusals(swarm)
    texts |= shown_objects()
    with pytest.raises(NotReady) as caught:
        swarm.hosts["leader"].seal("leader/trajectory", "T", PAYLOAD, wire.wall_ns, "leader")
    texts.add("".join(traceback.format_exception(caught.value)))
    raw: list[bytes] = []
    for host in (*swarm.hosts.values(), swarm.server.host):
        texts |= {json.dumps(host.counters.snapshot()), repr(vars(host.context.roster_tracker))}
    texts.add(json.dumps(swarm.server.status(), default=str))
    texts |= {json.dumps(SecurityState(events=tuple(a.text for a in wire.of(SecurityAlarm))).to_status())}
    texts |= {repr(effect) for _, _, effect in wire.effects}
    texts |= {store.state.to_json() for store in swarm.stores.values()}
    raw += [part for _, _, message in wire.sent for part in message.parts]
    raw += [data for store in swarm.stores.values() for data in store.documents.values()]
    texts |= {record.getMessage() for record in caplog.records}
    shown = capsys.readouterr()
    texts |= {shown.out, shown.err}
    kinds = set(secrets.found.values())
    assert {"a seed or shared secret", "an epoch secret", "a lane key", "a package's private key"} <= kinds
    assert len(secrets.found) > 40
    assert len(texts) > 100
    assert sum(map(len, raw)) > 100_000
    secrets.assert_absent(texts, raw)
    assert PAYLOAD.decode() not in "\n".join(texts), "nor is anything that was sealed"


def test_the_commands_of_the_keystore_show_no_secret(
    secrets: Secrets, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    store, given = tmp_path / "keys", tmp_path / "passphrase"
    given.write_text("correct horse battery staple\n")
    given.chmod(0o600)
    secrets.add("the passphrase", b"correct horse battery staple")
    encrypted = ["--passphrase-file", str(given)]
    where = ["--keystore", str(store)]
    assert main(["keys", "create", str(store), *encrypted]) == 0
    for verb in (
        ["enroll", "drone_01", "drone", *encrypted],
        ["renew", "drone_01", *encrypted],
        ["fallback"],
    ):
        for form in ([], ["--json"]):
            main(["keys", *verb, *where, *form])
    main(["keys", "list", *where])
    main(["keys", "show", "drone_01", *where])
    wrong = tmp_path / "wrong"
    wrong.write_text("battery staple correct\n")
    wrong.chmod(0o600)
    secrets.add("the wrong passphrase", b"battery staple correct")
    assert main(["keys", "revoke", "drone_01", *where, "--passphrase-file", str(wrong)]) == 1
    found = Keystore(store).fallback()
    assert found is not None
    secrets.add("the fallback secret", found.secret)
    for path in ("authority.key", "members/drone_01/identity.key"):
        lines = (store / path).read_text().splitlines()[1:-1]
        secrets.add("a private key", base64.b64decode("".join(lines)))
        secrets.add("the end of a private key", base64.b64decode("".join(lines))[-32:])
    text = capsys.readouterr()
    texts = {text.out, text.err}
    for passphrase in (None, b"battery staple correct"):
        with pytest.raises(CryptoError) as caught:
            Keystore(store).unlock(passphrase)
        texts.add("".join(traceback.format_exception(caught.value)))
    secrets.assert_absent(texts, [item.encode() for item in texts])
    public = [store / name for name in ("authority.pem", "crl.pem", "policy.yaml", "policy.sig")]
    secrets.assert_absent(set(), [path.read_bytes() for path in public])
