"""`chimera sitl`: the simulated vehicles alone."""

from __future__ import annotations

from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Hands the arguments to the simulator."""
    from chimera_ros.sitl.main import main as simulate

    return simulate(list(argv))
