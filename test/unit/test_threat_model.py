"""Every test that docs/threat-model.md names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_is_named_exists() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text()
    named = re.findall(r"`(test/[\w/]+\.py)::(\w+)`", text)
    assert len(named) > 25
    missing = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).is_file()
        or not re.search(
            rf"^(?:async )?def {name}\(|^{name} = |^class {name}\b", (ROOT / path).read_text(), re.M
        )
    ]
    assert not missing
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    untested = [row for row in rows if "test/" not in row and not row.startswith("| threat |")]
    assert not untested
