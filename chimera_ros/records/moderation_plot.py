"""Plot of a moderation: plan views before and after, heights, and separation over time. ENU, metres."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chimera_ros.flight.moderation_call import ModerationRequest, ModerationStatus
from chimera_ros.flight.trajectory import Path
from chimera_ros.moderation.errors import ModerationError
from chimera_ros.moderation.request import DroneConflict, ModerationResult
from chimera_ros.moderation.tracks import compiled

from .picture import drawing, label
from .tracks import (
    ALARM,
    FAINT,
    GOOD,
    INK,
    LABELLED,
    TracksFailed,
    colours_of,
    line_style,
    save_picture,
    style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_STEPS = 600  # samples of each trajectory


def draw_moderation(request: ModerationRequest, answer: ModerationResult, picture: FilePath) -> None:
    """Draws the plot as PNG. Raises TracksFailed."""
    try:
        before = [compiled(mine, name) for name, mine in zip(request.drones, request.knots, strict=True)]
    except ModerationError as error:
        raise TracksFailed(str(error)) from None
    with drawing(16.0, 10.5, 100) as figure:
        _draw(figure, request, answer, before)
        save_picture(figure, picture)


def _draw(
    figure: Figure, request: ModerationRequest, answer: ModerationResult, before: Sequence[Path]
) -> None:
    after = [Path(mine) for mine in answer.knots]
    good = answer.status is ModerationStatus.CONFLICT_FREE
    end_s = max(path.duration_s for path in (*before, *after))
    times = np.linspace(0.0, end_s, _STEPS)
    grid = figure.add_gridspec(2, 2, height_ratios=(1.75, 1.0))
    plans = [figure.add_subplot(grid[0, 0]), figure.add_subplot(grid[0, 1])]
    colours = colours_of(len(before))
    count = len(answer.before)
    points = np.concatenate([path.sample(times)[:, :2] for path in (*before, *after)])
    middle = (points.min(0) + points.max(0)) / 2.0
    half = 0.55 * float((points.max(0) - points.min(0)).max()) + 2.0
    limits = np.stack([middle - half, middle + half], axis=1)
    _plan(plans[0], f"Before: {count} conflicts", request, before, times, colours, answer.before, limits)
    words = "After" if good else "All hold" if after else "No answer"
    _plan(plans[1], words, request, after, times, colours, () if good else answer.remaining, limits, before)
    _separation(figure.add_subplot(grid[1, 0]), request, before, after, times)
    _heights(figure.add_subplot(grid[1, 1]), before, after, times, colours)
    state = answer.status.name.lower().replace("_", "-")
    title = [f"{len(before)} drones", state]
    if good:
        title += [f"winner: {answer.winner}", f"{answer.cost:.1f} m of extra path and delay"]
    title += [f"{answer.total_ms:.0f} ms"]
    figure.suptitle("  ·  ".join(title), fontsize=16, color=INK, fontweight="bold")


def _plan(
    axes: Axes,
    title: str,
    request: ModerationRequest,
    paths: Sequence[Path],
    times: Array,
    colours: Sequence[Any],
    marked: Sequence[DroneConflict],
    limits: Array,
    asked: Sequence[Path] = (),
) -> None:
    from matplotlib.patheffects import withStroke

    style(axes, title, "east (m)", "north (m)")
    width, opacity = line_style(len(paths))
    for row, path in enumerate(paths):
        points = path.sample(times)
        axes.plot(points[:, 0], points[:, 1], color=colours[row], linewidth=width, alpha=opacity)
        begin, end = points[0], points[-1]
        axes.scatter(
            [begin[0]],
            [begin[1]],
            s=80,
            linewidths=1.6,
            facecolors="white",
            edgecolors=[colours[row]],
            zorder=4,
        )
        axes.scatter([end[0]], [end[1]], s=22, c=[colours[row]], marker="s", zorder=5)
        what = _change(asked[row], path, times) if asked else label(request.drones[row])
        if len(paths) <= LABELLED and what:
            text = axes.annotate(
                what, (begin[0], begin[1]), xytext=(7, 5), textcoords="offset points", fontsize=9,
                color=colours[row], fontweight="bold", zorder=6,
            )  # fmt: skip
            text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    rows = {name: row for row, name in enumerate(request.drones)}
    for clash in marked[:200]:
        both = [rows[clash.first], rows[clash.second]]
        at = np.mean(
            [paths[row].sample(np.array([clash.t_s]))[0] for row in both if row < len(paths)], axis=0
        )
        if np.isfinite(at).all():
            axes.scatter(
                [at[0]], [at[1]], s=150, facecolors="none", edgecolors=ALARM, linewidths=1.5, zorder=7
            )
    axes.set_aspect("equal", adjustable="box")
    axes.set_xlim(*limits[0])
    axes.set_ylim(*limits[1])


def _change(asked: Path, path: Path, times: Array) -> str:
    """How the answer for one drone differs from its request, as a short label."""
    if path.knots == asked.knots:
        return ""
    old, new = asked.sample(times), path.sample(times)
    words = []
    rise = new[:, 2] - np.interp(np.linspace(0, 1, len(times)), np.linspace(0, 1, len(times)), old[:, 2])
    peak = float(rise[np.abs(rise).argmax()])
    if abs(peak) > 0.3:
        words.append(f"{peak:+.1f} m up" if peak > 0 else f"{-peak:.1f} m down")
    line = (
        asked.knots[-1].position_enu_m[0] - asked.knots[0].position_enu_m[0],
        (asked.knots[-1].position_enu_m[1] - asked.knots[0].position_enu_m[1]),
    )
    length = float(np.hypot(*line))
    if length > 1e-3:
        off = ((new[:, :2] - new[0, :2]) @ np.array([-line[1], line[0]])) / length
        was = ((old[:, :2] - old[0, :2]) @ np.array([-line[1], line[0]])) / length
        aside = float(off[np.abs(off).argmax()]) - float(was[np.abs(was).argmax()])
        if abs(aside) > 0.3:
            words.append(f"{abs(aside):.1f} m {'left' if aside > 0 else 'right'}")
    late = path.duration_s - asked.duration_s
    if abs(late) > 0.05:
        words.append(f"{late:+.1f} s")
    return ", ".join(words)


def _nearest(request: ModerationRequest, paths: Sequence[Path], times: Array) -> Array:
    """Smallest norm (T,) of any pair in the separation ellipsoid; 1 is the separation without errors."""
    places = np.stack([path.sample(times) for path in paths]) / request.separation.scale
    least = np.full(len(times), np.inf)
    for row in range(len(places) - 1):
        gaps = np.sqrt(((places[row + 1 :] - places[row]) ** 2).sum(-1)).min(0)
        least = np.minimum(least, gaps)
    return least


def _separation(
    axes: Axes, request: ModerationRequest, before: Sequence[Path], after: Sequence[Path], times: Array
) -> None:
    style(axes, "Smallest separation / required separation", "time (s)", "ratio")
    if len(before) < 2:
        axes.text(0.5, 0.5, "one drone only", transform=axes.transAxes, ha="center", color=FAINT)
        return
    asked = request.separation.required_norm()
    lines = [("before", _nearest(request, before, times), ALARM)]
    if after:
        lines.append(("after", _nearest(request, after, times), GOOD))
    for name, values, colour in lines:
        axes.plot(times, values, color=colour, linewidth=1.6, label=f"{name}: at least {values.min():.2f}")
    axes.axhline(asked, color=INK, linewidth=1.1, linestyle=(0, (6, 4)))
    horizontal, vertical = request.separation.horizontal_m, request.separation.vertical_m
    axes.annotate(
        f"required: {horizontal:g} m horizontal, {vertical:g} m vertical, plus errors", (0.995, asked),
        xycoords=("axes fraction", "data"), xytext=(0, -5), textcoords="offset points", ha="right", va="top",
        color=INK, fontsize=9,
    )  # fmt: skip
    axes.set_ylim(0.0, max(3.0, 1.5 * asked))
    axes.margins(x=0.01)
    axes.legend(loc="upper right", frameon=False, labelcolor=INK)


def _heights(
    axes: Axes, before: Sequence[Path], after: Sequence[Path], times: Array, colours: Sequence[Any]
) -> None:
    style(axes, "Height (dashed: before)", "time (s)", "up (m)")
    width, opacity = line_style(len(before))
    for paths, dashes, weight in ((before, (0, (4, 3)), 0.5), (after, "solid", 1.0)):
        for row, path in enumerate(paths):
            axes.plot(
                times, path.sample(times)[:, 2], color=colours[row], linewidth=width * weight,
                alpha=opacity * weight, linestyle=dashes,
            )  # fmt: skip
    axes.margins(x=0.01)
