"""Model check of verify/epochs.pml with Spin: the model holds, and each mutant of it violates an assertion.

Needs `spin` and `gcc` (Debian: apt-get install spin gcc). Exit status 0: as expected, 1: not as expected, 2:
a tool is missing.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

MODEL: Final = Path(__file__).resolve().parents[1] / "verify" / "epochs.pml"
MUTANTS: Final = {
    1: "numbers are not separated by rank",
    2: "a restarted crypto node does not read its number from disk",
    3: "the roster names the evicted member",
    4: "the switch does not wait for `ready`",
    5: "an eviction is not stored before it takes effect",
    6: "a member does not store the number it installs",
    7: "a member accepts a roster with the evicted member",
    8: "a member continues to send after it has received the eviction",
}
_LIMIT_S: Final = 300
_MEMORY_MB: Final = 4000


def main() -> int:
    """Run Spin on the model and on its mutants."""
    for tool, package in (("spin", "spin"), ("gcc", "gcc")):
        if shutil.which(tool) is None:
            print(
                f"verify: {tool} is not installed; get it with: sudo apt-get install {package}",
                file=sys.stderr,
            )
            return 2
    failed = []
    for mutant in (0, *MUTANTS):
        what = MUTANTS.get(mutant, "the protocol")
        print(f"model {mutant}/{len(MUTANTS)} {what} …", flush=True)
        began = time.monotonic()
        try:
            errors, states, finding = _check(mutant)
        except subprocess.TimeoutExpired:
            failed.append(what)
            print(f"  NOT FINISHED within {_LIMIT_S} s", flush=True)
            continue
        took = f"{states} states, {time.monotonic() - began:.0f} s"
        expected = errors == 0 if mutant == 0 else errors > 0
        if not expected:
            failed.append(what)
        verdict = "no violation" if errors == 0 else f"violated: {finding}"
        print(f"  {'as expected' if expected else 'WRONG'}: {verdict} ({took})", flush=True)
    if failed:
        print(f"verify: the result is not as expected for: {'; '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _check(mutant: int) -> tuple[int, str, str]:
    """(errors, states, what was violated). Raises TimeoutExpired, CalledProcessError, ValueError."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"cwd": folder, "check": True, "capture_output": True}
        subprocess.run(["spin", "-a", f"-DMUTANT={mutant}", str(MODEL)], **options)  # type: ignore[call-overload]
        flags = ["-O3", "-DSAFETY", "-DHC4", f"-DMEMLIM={_MEMORY_MB}"]
        subprocess.run(["gcc", *flags, "-o", "pan", "pan.c"], **options)  # type: ignore[call-overload]
        done = subprocess.run(
            ["./pan", "-m200000", "-w24"], cwd=folder, capture_output=True, text=True, timeout=_LIMIT_S
        )
    errors = re.search(r"errors: (\d+)", done.stdout)
    states = re.search(r"(\S+) states, stored", done.stdout)
    if (
        errors is None
        or states is None
        or "error: max search depth" in done.stdout
        or "out of memory" in done.stdout
    ):
        raise ValueError(f"Spin did not search everything:\n{done.stdout[-2000:]}")
    violated = re.search(r"assertion violated (.*)", done.stdout)
    return int(errors[1]), states[1], violated[1][:100] if violated else ""


if __name__ == "__main__":
    sys.exit(main())
