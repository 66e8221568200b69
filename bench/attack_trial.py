"""One attack and its verdict: what was sent, what the swarm noticed, when, and whether it did any harm."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from math import dist

import attack_flood
from attack_scene import NAMESPACE, Scene

from chimera_ros.ros import names

NOTICE_S = 6.0  # status lines come twice a second, a checkpoint once
SETTLE_S = 0.5
DISPLACED_M = 2.5  # a drone gives way to a false neighbour by two metres at most, by its own rules


@dataclass(frozen=True)
class Attack:
    """A named attack. `play` does it and returns what went wrong for the defenders, empty if nothing.

    `signs` are counters ("rejected.replay", "doubt.") of which the sum must rise by the packets sent times
    `share`, or texts ("alarm:another epoch") that an alarm must contain. No signs: a door that is shut.
    """

    name: str
    origin: str  # outside or inside
    play: Callable[[Trial], str]
    signs: tuple[str, ...] = ()
    share: float = 0.9


@dataclass(frozen=True)
class Verdict:
    """rejected, detected, shut, or missed (with the reason)."""

    name: str
    origin: str
    word: str
    sent: int
    noticed_s: float | None
    by: str


@dataclass
class Trial:
    """What a play gets: the scene, and where it says that its first packet leaves."""

    scene: Scene
    attack: Attack
    sent: int = 0
    began_s: float | None = None
    noticed_s: float | None = None
    before: Counter[str] = field(default_factory=Counter)

    def start(self) -> None:
        """The first malicious packet leaves now."""
        self.scene.spin(0.6)  # status lines under way belong to before
        self.before = self.scene.counters()
        self.began_s = time.monotonic()
        self.scene.on_step = self.look

    def send(
        self, channel: str, packet: bytes, message_type: type | None = None, latched: bool = False
    ) -> None:
        """Publish bytes as a stranger would."""
        publisher = self.scene.stranger.publisher(channel, latched=latched, **_typed(message_type))
        publisher.publish(packet)
        self.sent += 1

    def connect(
        self, channel: str, message_type: type | None = None, latched: bool = False, readers: int = 2
    ) -> None:
        """Wait until readers in the swarm hear the stranger."""
        publisher = self.scene.stranger.publisher(channel, latched=latched, **_typed(message_type))
        self.scene.wait(
            lambda: publisher.get_subscription_count() >= readers, 15.0, f"for readers of {channel}"
        )
        self.scene.spin(0.3)

    def flood(
        self, channel: str, make: Callable[[], list[bytes]], label: str, kind: str = "SecureEnvelope"
    ) -> str:
        """Send packets as fast as a process of its own can, for five seconds; says what suffered."""
        scene = self.scene
        path = scene.folder / f"flood_{len(scene.notes)}.bin"
        quiet_cpu, quiet_at = scene.cpu_s(), time.monotonic()
        scene.spin(4.0)
        quiet = (scene.cpu_s() - quiet_cpu) / (time.monotonic() - quiet_at)
        argv = [sys.executable, attack_flood.__file__, str(path), names.topic(channel, NAMESPACE), kind, "5"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            os.set_blocking(process.stdout.fileno(), False)
            lines: list[str] = []
            scene.wait(lambda: _printed(process, lines, 1), 20.0, "for the flood to begin")
            self.start()
            attack_flood.write(path, make())
            heard = scene.heard.copy()
            busy_cpu, began = scene.cpu_s(), time.monotonic()
            scene.wait(lambda: _printed(process, lines, 2), 20.0, "for the flood to end")
        span = time.monotonic() - began
        self.sent = int(lines[1])
        busy = (scene.cpu_s() - busy_cpu) / span
        rates = [(scene.heard[name] - heard[name]) / span for name in scene.flown[1:]]
        scene.notes[f"{label}: packets sent"] = (self.sent / 5.0, "1/s")
        scene.notes[f"{label}: processor time of the swarm, before"] = (100 * quiet, "% of a core")
        scene.notes[f"{label}: processor time of the swarm, meanwhile"] = (100 * busy, "% of a core")
        scene.notes[f"{label}: slowest telemetry of the drones meanwhile"] = (min(rates), "Hz")
        return "" if min(rates) > 5.0 else f"telemetry fell to {min(rates):.1f} Hz"

    def look(self) -> None:
        """Note the moment at which the operator could first see the attack."""
        if self.noticed_s is None and self.began_s is not None and self.found(1.0):
            self.noticed_s = time.monotonic() - self.began_s

    def found(self, least: float) -> str:
        """The sign by which the attack shows, if its counters have risen by `least`."""
        for sign in self.attack.signs:
            if sign.startswith("alarm:"):
                text = sign.removeprefix("alarm:")
                for at, alarm in self.scene.alarms:
                    if at >= (self.began_s or 0.0) and text in alarm:
                        return alarm
        wanted = [sign for sign in self.attack.signs if not sign.startswith("alarm:")]
        now = self.scene.counters()
        rises = {
            name: now[name] - self.before[name]
            for name in now
            if now[name] > self.before[name] and any(name.startswith(sign) for sign in wanted)
        }
        if not rises or sum(rises.values()) < least:
            return ""
        return ", ".join(f"{name.split('.', 1)[1]} {count}" for name, count in sorted(rises.items()))


def _printed(process: subprocess.Popen[str], lines: list[str], count: int) -> bool:
    """True when the process has printed `count` lines."""
    assert process.stdout is not None
    lines += process.stdout.readlines()
    return len(lines) >= count


def _typed(message_type: type | None) -> dict[str, type]:
    return {} if message_type is None else {"message_type": message_type}


def run(scene: Scene, attack: Attack) -> Verdict:
    """Play one attack on a hovering swarm and judge it."""
    scene.log(attack.name)
    trial = Trial(scene, attack)
    places, exits = scene.places(), len(scene.exits)
    try:
        problem = attack.play(trial)
    except (Exception, SystemExit) as error:  # an attack that could not be played has shown nothing
        problem = f"could not be played: {error}"
    least = max(1.0, attack.share * trial.sent)
    if attack.signs and not problem:
        scene.until(lambda: bool(trial.found(least)), NOTICE_S)
    scene.spin(SETTLE_S)
    scene.on_step = None
    problem = problem or _harm(scene, places, exits)
    if problem:
        word, by = "missed", problem
    elif not attack.signs:
        word, by = "shut", "nothing listens"
    elif not trial.found(least):
        word, by = "missed", f"too little in counters and alarms: {trial.found(1.0) or 'nothing'}"
    else:
        detected = any(sign.startswith(("alarm:", "doubt.")) for sign in attack.signs)
        word, by = "detected" if detected else "rejected", trial.found(least)
    return Verdict(attack.name, attack.origin, word, trial.sent, trial.noticed_s, by)


def _harm(scene: Scene, places: list[tuple[float, float, float]], exits: int) -> str:
    if len(scene.exits) > exits:
        return f"process {scene.exits[-1]}"
    moved = max((dist(a, b) for a, b in zip(places, scene.places(), strict=True)), default=0.0)
    if moved > DISPLACED_M:
        return f"a drone moved by {moved:.1f} m"
    if not scene.observer.ready:
        return "the observer is out of the swarm"
    newest = min(kept[-1][0] for name, kept in scene.telemetry.items() if kept and name in scene.flown)
    silence_s = time.monotonic() - newest
    return f"telemetry of a drone stopped for {silence_s:.1f} s" if silence_s > 2.0 else ""
