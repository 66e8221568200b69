"""Variational circuits of path moderation: their description, and their state vectors in numpy.

A circuit is a layer of RY on every qubit, then `layers` times a chain of CZ between neighbours (when
`entangle`) and another layer of RY: the hardware-efficient ansatz of Kandala et al., Nature 549 (2017) 242,
with real gates only, so that amplitudes are float64. Qubit 0 is the least significant bit of a basis state's
index, as in Qiskit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
BitArray = NDArray[np.uint8]
IntArray = NDArray[np.int64]

MAX_QUBITS = 60  # of a description; what can be simulated is fewer
MAX_STATE_QUBITS = 20  # of a state vector in numpy: 8 MiB a run
MAX_LAYERS = 16
_GROUP = 4  # qubits rotated by one small matrix product


@dataclass(frozen=True, slots=True)
class CircuitSpec:
    """One or several runs of a circuit; `angles` (runs, qubits * (layers + 1)) in radians, layer by layer."""

    qubits: int
    layers: int
    angles: Array
    entangle: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.qubits <= MAX_QUBITS or not 0 <= self.layers <= MAX_LAYERS:
            raise ValueError(
                f"a circuit has 1 to {MAX_QUBITS} qubits and 0 to {MAX_LAYERS} layers, "
                f"not {self.qubits} and {self.layers}"
            )
        wanted = self.qubits * (self.layers + 1)
        if self.angles.ndim != 2 or self.angles.shape[1] != wanted or not len(self.angles):
            raise ValueError(f"{self.qubits} qubits and {self.layers} layers take {wanted} angles a run")
        if not np.isfinite(self.angles).all():
            raise ValueError("an angle is not a finite number")

    @property
    def runs(self) -> int:
        """Number of sets of angles."""
        return len(self.angles)


class SamplerUnavailable(Exception):
    """No backend executed the circuit; the text says why (absent, crashed, too slow, refused)."""


class Sampler(Protocol):
    """Executes and measures circuits on a backend."""

    @property
    def backend(self) -> str:
        """Name of the backend, for reports."""

    def sample(self, circuit: CircuitSpec, shots: int, seed: int) -> BitArray:
        """Bits (runs, shots, qubits) in shot order, column q being qubit q. Raises SamplerUnavailable."""


class Ansatz:
    """A circuit's shape, with state vectors and gradients of several runs at once."""

    def __init__(self, qubits: int, layers: int = 1, entangle: bool = True) -> None:
        if not 1 <= qubits <= MAX_STATE_QUBITS or not 0 <= layers <= MAX_LAYERS:
            raise ValueError(f"state vectors have 1 to {MAX_STATE_QUBITS} qubits, not {qubits}")
        self.qubits, self.layers, self.entangle = qubits, layers, entangle
        index = np.arange(2**qubits)
        both = index & (index >> 1)  # bit q: qubits q and q + 1 are both 1
        parity = np.zeros_like(both)
        for q in range(qubits - 1):
            parity ^= both >> q
        self._sign = 1.0 - 2.0 * (parity & 1)  # of the chain of CZ
        # groups of qubits (low, count), the least significant first
        self._groups = [(low, min(_GROUP, qubits - low)) for low in range(0, qubits, _GROUP)]

    @property
    def parameters(self) -> int:
        """Number of angles of one run."""
        return self.qubits * (self.layers + 1)

    def states(self, angles: Array) -> Array:
        """Amplitudes (runs, 2**qubits) for angles (runs, parameters)."""
        layers = angles.reshape(len(angles), self.layers + 1, self.qubits)
        state = self._product(layers[:, 0])
        for depth in range(1, self.layers + 1):
            if self.entangle:
                state = state * self._sign
            state = self._rotate(state, layers[:, depth], 1.0)
        return state

    def value_and_gradient(
        self, angles: Array, objective: Callable[[Array], tuple[Array, Array]]
    ) -> tuple[Array, Array]:
        """Values (runs,) and gradients (runs, parameters) of a function of the probabilities.

        `objective` takes probabilities (runs, 2**qubits) and returns the values and their derivatives by each
        probability. Adjoint differentiation: one pass forward and one back for any number of angles (Jones
        and Gacon, arXiv:2009.02823).
        """
        runs = len(angles)
        layers = angles.reshape(runs, self.layers + 1, self.qubits)
        state = self.states(angles)
        values, weights = objective(state * state)
        adjoint = weights * state
        gradient = np.empty_like(layers)
        for depth in range(self.layers, -1, -1):
            gradient[:, depth] = self._inner(adjoint, state)
            if depth:
                state = self._rotate(state, layers[:, depth], -1.0)
                adjoint = self._rotate(adjoint, layers[:, depth], -1.0)
                if self.entangle:
                    state, adjoint = state * self._sign, adjoint * self._sign
        return values, gradient.reshape(runs, -1)

    # Layers of RY ------------------------------------------------------------------------------------------

    def _product(self, angles: Array) -> Array:
        """The state after RY(angles) (runs, qubits) on |0...0>."""
        cosine, sine = np.cos(angles / 2), np.sin(angles / 2)
        state = np.ones((len(angles), 1))
        for q in range(self.qubits):
            state = np.concatenate([state * cosine[:, q, None], state * sine[:, q, None]], axis=1)
        return state

    def _rotate(self, state: Array, angles: Array, direction: float) -> Array:
        """RY(direction * angles) on every qubit of states (runs, 2**qubits)."""
        runs = len(state)
        cosine, sine = np.cos(angles / 2), direction * np.sin(angles / 2)
        for low, count in self._groups:
            matrix: Array = np.ones((runs, 1, 1))
            for q in range(low, low + count):
                c, s = cosine[:, q, None, None, None, None], sine[:, q, None, None, None, None]
                one = np.concatenate(
                    [np.concatenate([c, -s], axis=3), np.concatenate([s, c], axis=3)], axis=1
                )  # (runs, 2, 1, 2, 1)
                size = matrix.shape[1]
                matrix = (one * matrix[:, None, :, None, :]).reshape(runs, 2 * size, 2 * size)
            if low == 0:
                state = (state.reshape(runs, -1, 2**count) @ matrix.transpose(0, 2, 1)).reshape(runs, -1)
            else:
                parts = state.reshape(runs, -1, 2**count, 2**low)
                state = (matrix[:, None] @ parts).reshape(runs, -1)
        return state

    def _inner(self, adjoint: Array, state: Array) -> Array:
        """2 <adjoint| d/d angle |state> for the last RY on each qubit: (runs, qubits)."""
        runs = len(state)
        out = np.empty((runs, self.qubits))
        for low, count in self._groups:
            left, right = (v.reshape(runs, -1, 2**count, 2**low) for v in (adjoint, state))
            if low == 0:  # one large product instead of many small ones
                both = left[..., 0].transpose(0, 2, 1) @ right[..., 0]
            else:
                both = (left @ right.transpose(0, 1, 3, 2)).sum(1)
            # both[r, x, y]: overlap where the adjoint's group reads x and the state's y
            index = np.arange(2**count)
            for k in range(count):
                zero = index[(index >> k) & 1 == 0]
                one = zero | (1 << k)
                out[:, low + k] = both[:, one, zero].sum(1) - both[:, zero, one].sum(1)
        return out


def cvar(energies_in_order: Array, order: IntArray, alpha: float) -> Callable[[Array], tuple[Array, Array]]:
    """For `value_and_gradient`: the mean of the best fraction `alpha` of the outcomes.

    `order` sorts the energies, `energies_in_order` are sorted. CVaR: Barkoutsos et al., Quantum 4 (2020) 256.
    """
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))

    def objective(probabilities: Array) -> tuple[Array, Array]:
        cumulated = np.cumsum(probabilities[:, order], axis=1)
        last = np.minimum((cumulated < alpha).sum(1), len(order) - 1)  # where the best fraction ends
        level = energies_in_order[last]
        gain = np.minimum(energies_in_order[None, :] - level[:, None], 0.0)[:, rank] / alpha
        return level + (probabilities * gain).sum(1), gain

    return objective


def sample_states(states: Array, shots: int, seed: int) -> BitArray:
    """Bits (runs, shots, qubits) sampled from amplitudes (runs, 2**qubits), as a backend measures them."""
    rng = np.random.default_rng(seed)
    qubits = states.shape[1].bit_length() - 1
    cumulated = np.cumsum(states * states, axis=1)
    drawn = rng.random((len(states), shots)) * cumulated[:, -1:]
    found = [np.searchsorted(c, d, side="right") for c, d in zip(cumulated, drawn, strict=True)]
    index = np.minimum(np.stack(found), states.shape[1] - 1)
    bits: BitArray = ((index[:, :, None] >> np.arange(qubits)) & 1).astype(np.uint8)
    return bits
