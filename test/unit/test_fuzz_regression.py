"""Everything that reads bytes from the network, against seeded mutations of genuine messages.

`make verify` runs the same targets with coverage-guided fuzzing (tools/fuzz.py).
"""

from __future__ import annotations

import ast
import os
import random
import re
import sys
import warnings
from pathlib import Path
from types import FrameType, ModuleType

import pytest

from chimera_ros.crypto.wire import ControlKind

ROOT = Path(__file__).parents[2]
INPUTS = 20_000 if os.environ.get("HYPOTHESIS_PROFILE") == "verify" else 1500


def _targets() -> ModuleType:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import fuzz_targets
    finally:
        sys.path.remove(str(ROOT / "tools"))
    return fuzz_targets


fuzz_targets = _targets()


@pytest.mark.parametrize("name", list(fuzz_targets.TARGETS))
def test_spoilt_messages_break_nothing(name: str) -> None:
    target = fuzz_targets.TARGETS[name]
    corpus = target.corpus()
    assert corpus
    chance = random.Random(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `cryptography` warns of odd certificates before it refuses them
        for data in corpus:
            target.run(data)
        for _ in range(INPUTS // target.slow):
            target.run(fuzz_targets.mutated(chance.choice(corpus), chance))


# Readers that no target reaches, and why that is right.
_WIRES = "hands bytes to a codec and a core that have targets"
NOT_FUZZED = {
    "chimera_ros/crypto/trust/certificate_cache.py:CertificateCache.take_deferred": (
        "reads nothing: the bytes are a fingerprint"
    ),
    "chimera_ros/crypto/key_server/server.py:KeyServer._on_proof_announcement": (
        "parse_announcement reads, and is fuzzed"
    ),
    "chimera_ros/crypto/keystore/key_file.py:read_key": "a file of the owner, mode 0600",
    "chimera_ros/crypto/keystore/keystore.py:Keystore._read_key": "a file of the owner, mode 0600",
    "chimera_ros/ros/live_members.py:LiveMembers.take": "Trust.certify and Beat.parse read, and are fuzzed",
    "chimera_ros/crypto/qkd/quantum_channel.py:decode_run": "what a process gives its own worker",
    "chimera_ros/crypto/member/trust_updates.py:TrustUpdates.take_crl": (
        "stores what read_signed_crl has read"
    ),
    "chimera_ros/crypto/member/trust_updates.py:TrustUpdates.take_policy": (
        "stores what read_signed_policy has read"
    ),
    "chimera_ros/ros/checkpoint_topics.py:CheckpointTopics._take": _WIRES,
    "chimera_ros/ros/control_topics.py:decode_control": _WIRES,
    "chimera_ros/ros/endpoints.py:Channel.on_packet": _WIRES,
    "chimera_ros/ros/services.py:ResponseChannel._on_packet": _WIRES,
    "chimera_ros/ros/services.py:SecureService._on_packet": _WIRES,
    "chimera_ros/ros/session_driver.py:SessionDriver._on_control": _WIRES,
}
READER = re.compile(r"_?(parse|read|decode|checked|kind_of|open|handle|on|take)(_|$)")
RAW = re.compile(r"\b(bytes|ControlMessage|Envelope|Checkpoint)\b")


def _readers() -> set[str]:
    """What, by name and argument, reads bytes, in the rooms that the network reaches."""
    found = set()
    for room in ("crypto", "ros"):
        for path in sorted((ROOT / "chimera_ros" / room).rglob("*.py")):
            if path.parent.name == "testing" or path.name in ("interfaces.py", "openssl.py", "liboqs.py"):
                continue  # help for tests, interfaces, and libraries behind checks of their own
            for holder in ast.walk(ast.parse(path.read_text())):
                if not isinstance(holder, ast.Module | ast.ClassDef):
                    continue
                for item in holder.body:
                    if not isinstance(item, ast.FunctionDef) or not READER.match(item.name):
                        continue
                    kinds = [ast.unparse(a.annotation) for a in item.args.args if a.annotation]
                    if any(RAW.search(kind) for kind in kinds):
                        prefix = f"{holder.name}." if isinstance(holder, ast.ClassDef) else ""
                        found.add(f"{path.relative_to(ROOT)}:{prefix}{item.name}")
    return found


def test_every_reader_of_the_network_is_fuzzed() -> None:
    """A new reader needs a target, or a line above that says why it needs none."""
    codes = set()

    def called(frame: FrameType, event: str, _: object) -> None:
        codes.add(frame.f_code)

    before = sys.gettrace()
    for target in fuzz_targets.TARGETS.values():
        corpus = target.corpus()
        sys.settrace(called)  # calls only: what it returns, None, asks for no lines
        try:
            for data in corpus:
                target.run(data)
        finally:
            sys.settrace(before)
    here = [code for code in codes if code.co_filename.startswith(str(ROOT / "chimera_ros"))]
    reached = {f"{Path(code.co_filename).relative_to(ROOT)}:{code.co_qualname}" for code in here}
    readers = _readers()
    assert not readers - reached - set(NOT_FUZZED)
    assert len(readers) > 40
    assert not set(NOT_FUZZED) - readers, "they are no more"


def test_every_kind_of_control_message_is_fuzzed() -> None:
    elsewhere = {ControlKind.ANNOUNCEMENT, ControlKind.CERTIFICATE, ControlKind.TRUST}
    assert set(fuzz_targets.BODIES) | elsewhere == set(ControlKind)
    assert {message.kind for message in fuzz_targets.fixture().messages} == set(ControlKind)


def test_the_fuzzer_would_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that accepts bytes after the last field is found by the mutations at once."""
    from chimera_ros.crypto.encoding import Reader

    monkeypatch.setattr(Reader, "end", lambda self: None)
    chance = random.Random(1)
    target = fuzz_targets.TARGETS["bodies"]
    corpus = target.corpus()

    def spoil() -> None:
        for _ in range(INPUTS):
            target.run(fuzz_targets.mutated(chance.choice(corpus), chance))

    with pytest.raises(fuzz_targets.Bug, match="second encoding"):
        spoil()
