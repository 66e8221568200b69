"""Every test that docs/threat-model.md names exists."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


TEXT = (ROOT / "docs" / "threat-model.md").read_text()
PLAYED = "## What `chimera bench attacks` plays"


def _rows(text: str) -> list[list[str]]:
    """Cells of each row that is no heading and no line."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    return [row for row in rows if row[0] not in ("threat", "row") and "---" not in row[0]]


def test_every_attack_of_the_suite_belongs_to_a_row() -> None:
    before, _, after = TEXT.partition(PLAYED)
    threats = {row[0] for row in _rows(before)}
    mapped = _rows(after)
    assert not [row[0] for row in mapped if row[0] not in threats]
    listed = [name for row in mapped for name in row[1].split("; ")]
    played = [
        name
        for path in sorted((ROOT / "bench").glob("attack_*.py"))
        for name in re.findall(r'\bAttack\(\s*"([^"]+)"', path.read_text())
    ]
    assert len(played) > 30
    assert sorted(listed) == sorted(played)


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`(test/[\w/]+\.py)::(\w+)`", TEXT)
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
    untested = [row[0] for row in _rows(TEXT.partition(PLAYED)[0]) if "test/" not in row[2]]
    assert not untested
