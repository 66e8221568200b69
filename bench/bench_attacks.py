"""Attacks on a flying swarm, from outside and from inside a captured member; false alarms without any."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import attack_inside
import attack_outside
import attack_trust
from attack_scene import HOLD, Scene, prepare_keystore, tour
from attack_trial import Attack, Verdict, run
from harness import Result, emit, private_domain
from rich.console import Console
from rich.table import Table

QUIET_S = 600.0


def main() -> int:
    """Fly without an attack, fly under attack, print what was noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="40 s without an attack instead of 10 minutes, fewer false reports",
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", help="attacks whose name contains this")
    arguments = parser.parse_args()
    quiet_s = 40.0 if arguments.quick else QUIET_S
    rows: list[Result] = []
    with private_domain(), tempfile.TemporaryDirectory(prefix="chimera_attacks_") as name:
        folder = Path(name)
        keystore = prepare_keystore(folder)
        earlier: list[bytes] = []
        if not arguments.only:
            baseline, earlier = fly_unattacked(folder / "baseline", keystore, quiet_s)
            rows += baseline
        chosen = [
            attack
            for attack in (*attack_outside.ATTACKS, *attack_inside.ATTACKS, *attack_trust.ATTACKS)
            if (arguments.only or "") in attack.name and (earlier or "across runs" not in attack.name)
        ]
        verdicts, notes = fly_under_attack(
            folder / "attacked", keystore, earlier, chosen, 1 if arguments.quick else 15
        )
    rows += judge(verdicts) + notes
    if arguments.json:
        show(verdicts, Console(stderr=True))
    else:
        show(verdicts, Console())
    emit("attacks", rows, as_json=arguments.json)
    return 0


def _log(text: str) -> None:
    print(f"  {text} …", file=sys.stderr, flush=True)


def fly_unattacked(folder: Path, keystore: Path, seconds: float) -> tuple[list[Result], list[bytes]]:
    """A moving flight without any attack: every alarm is a false one. Also returns packets for later."""
    folder.mkdir()
    with Scene(tour(2 + round(seconds / 30)), folder, keystore, _log) as scene:
        scene.stranger.listen(attack_outside.TELEMETRY)
        scene.fly()
        before, began = scene.counters(), time.monotonic()
        alarms = len(scene.alarms)
        _log(f"{seconds:.0f} s without an attack")
        scene.until(lambda: bool(scene.statuses["leader"].get("finished")), seconds)
        flown_s = time.monotonic() - began
        false = list(scene.alarms)[alarms:]
        after = scene.counters()
        doubts = sum(after[n] - before[n] for n in after if n.startswith("doubt."))
        refused = sum(after[n] - before[n] for n in after if n.startswith("rejected."))
        for _, text in false:
            _log(f"false alarm: {text}")
        heard = list(scene.stranger.heard[attack_outside.TELEMETRY])[-attack_outside.BATCH :]
        scene.land()
    rows = [
        Result("attack-free flight", flown_s, "s"),
        Result("attack-free flight: alarms", float(len(false)), "", ("<=", 0.0)),
        Result("attack-free flight: telemetry doubted", float(doubts), "", ("<=", 0.0)),
        Result("attack-free flight: packets refused", float(refused), ""),
    ]
    return rows, heard


def fly_under_attack(
    folder: Path, keystore: Path, earlier: list[bytes], attacks: list[Attack], lie_rounds: int
) -> tuple[list[Verdict], list[Result]]:
    """One hovering swarm, one attack after the other."""
    folder.mkdir()
    with Scene(HOLD, folder, keystore, _log) as scene:
        scene.earlier = earlier
        scene.lie_rounds = lie_rounds
        scene.fly()
        verdicts = [run(scene, attack) for attack in attacks]
        notes = [Result(name, value, unit) for name, (value, unit) in scene.notes.items()]
        scene.land()
    return verdicts, notes


def judge(verdicts: list[Verdict]) -> list[Result]:
    """The rows with targets."""
    outside = [v for v in verdicts if v.origin == "outside"]
    inside = [v for v in verdicts if v.origin == "inside"]
    rows = [
        Result("attacks played", float(len(verdicts)), "", (">=", 15.0)),
        Result(
            "from outside, not rejected", float(sum(v.word == "missed" for v in outside)), "", ("<=", 0.0)
        ),
        Result(
            "from inside, neither rejected nor detected",
            float(sum(v.word == "missed" for v in inside)),
            "",
            ("<=", 0.0),
        ),
    ]
    for verdict in verdicts:
        if verdict.noticed_s is not None:
            limit = ("<=", 2.0) if verdict.name == "insider forges telemetry" else None
            rows.append(Result(f"{verdict.name}: {verdict.word} after", verdict.noticed_s, "s", limit))
    return rows


def show(verdicts: list[Verdict], console: Console) -> None:
    """The table for people."""
    table = Table(title="attacks on a flying swarm", title_justify="left", box=None)
    for heading in ("attack", "from", "verdict", "packets", "noticed after", "by"):
        table.add_column(heading, justify="right" if heading == "packets" else "left")
    colours = {"missed": "bold red", "detected": "yellow", "rejected": "green", "shut": "green"}
    for v in verdicts:
        noticed = "–" if v.noticed_s is None else f"{v.noticed_s:.2f} s"
        word = f"[{colours[v.word]}]{v.word}[/]"
        table.add_row(v.name, v.origin, word, str(v.sent), noticed, v.by[:70])
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
