"""Assignment of drones to slots by minimum total squared distance."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..trajectory import Array


def assign(starts: Array, targets: Array) -> Array:
    """Targets (N, 3), one for each drone at `starts` (N, 3); there may be more targets than drones.

    Minimum total squared distance keeps synchronous straight lines apart by 1/sqrt(2) of the spacing of
    starts and goals (Turpin, Michael, Kumar: CAPT).
    """
    cost = ((starts[:, None, :] - targets[None, :, :]) ** 2).sum(-1)
    rows, columns = linear_sum_assignment(cost)
    out = np.empty_like(starts)
    out[rows] = targets[columns]
    return out
