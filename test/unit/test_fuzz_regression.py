"""Everything that reads bytes from the network, against seeded mutations of genuine messages.

`make verify` runs the same targets with coverage-guided fuzzing (tools/fuzz.py).
"""

from __future__ import annotations

import os
import random
import sys
import warnings
from pathlib import Path
from types import ModuleType

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
        for _ in range(INPUTS):
            target.run(fuzz_targets.mutated(chance.choice(corpus), chance))


def test_every_kind_of_control_message_is_fuzzed() -> None:
    elsewhere = {ControlKind.ANNOUNCEMENT, ControlKind.CERTIFICATE, ControlKind.TRUST}
    assert set(fuzz_targets.BODIES) | elsewhere == set(ControlKind)
    assert {message.kind for message in fuzz_targets.world().messages} == set(ControlKind)


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

    with pytest.raises(fuzz_targets.Bug, match="second spelling"):
        spoil()
