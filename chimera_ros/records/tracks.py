"""Plot of the flown tracks: plan view, heights and the smallest separation over time."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from chimera_ros import private_files
from chimera_ros.formats import json_values

from .picture import drawing, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

MAX_BYTES: Final = 1024 * 1024 * 1024
MAX_LINE_BYTES: Final = 1024 * 1024
MAX_SAMPLES: Final = 20_000  # of a longer flight every second, fourth, … sample is drawn
AIRBORNE_M: Final = 0.3  # a drone counts as airborne this far above its first position
LABELLED: Final = 20  # up to so many drones are labelled with their number
INK: Final = "#1f2933"
FAINT: Final = "#9aa5b1"
ALARM: Final = "#c81e1e"
GOOD: Final = "#0b6e4f"


class TracksFailed(Exception):
    """The plot could not be made; the text is one sentence for people."""


@dataclass(frozen=True, slots=True)
class Tracks:
    """Positions of the drones: `time_s` (T,), `position_enu_m` (T, N, 3) in the frame `map`."""

    time_s: Floats
    position_enu_m: Floats

    @property
    def drones(self) -> int:
        """Number of drones."""
        return int(self.position_enu_m.shape[1])


@dataclass(frozen=True, slots=True)
class SeparationSeries:
    """Smallest distance of two airborne drones over time; NaN where fewer than two are airborne.

    `time_s` (T,) and `smallest_m` (T,); `pair` are the two drones (from 0) with the smallest distance of all,
    at `when_s`, with the midpoint `where_enu_m`; None if no two were airborne at the same time.
    """

    time_s: Floats
    smallest_m: Floats
    pair: tuple[int, int] | None
    when_s: float
    where_enu_m: tuple[float, float, float]

    @property
    def minimum_m(self) -> float | None:
        """The smallest distance of all."""
        return None if self.pair is None else float(np.nanmin(self.smallest_m))


def read_tracks(path: Path) -> Tracks:
    """Reads JSON lines `{"t": s, "enu": [[x, y, z], …]}`; malformed lines and other numbers of drones are
    skipped.

    Raises TracksFailed.
    """
    times: list[float] = []
    rows: list[Any] = []
    drones: int | None = None
    step, index = 1, 0
    try:
        if path.stat().st_size > MAX_BYTES:
            raise TracksFailed(
                f"tracks {path} have more than {MAX_BYTES >> 20} MiB, which is too much to draw"
            )
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES):
                sample = _sample(line)
                if sample is None:
                    continue
                time_s, positions = sample
                drones = len(positions) if drones is None else drones
                if len(positions) != drones or (times and time_s <= times[-1]):
                    continue
                index += 1
                if (index - 1) % step:
                    continue
                times.append(time_s)
                rows.append(positions)
                if len(times) > MAX_SAMPLES:
                    times, rows, step = times[::2], rows[::2], step * 2
    except OSError as error:
        raise TracksFailed(f"tracks {path} cannot be read: {error.strerror or error}") from error
    if len(times) < 2 or not drones:
        raise TracksFailed(f"tracks {path} hold fewer than two samples: nothing was flown")
    return Tracks(np.array(times, dtype=np.float64), np.array(rows, dtype=np.float64))


def _sample(line: bytes) -> tuple[float, list[list[float]]] | None:
    try:
        value = json_values.parse(line, MAX_LINE_BYTES)
        time_s = float(value["t"])
        positions = [[float(x), float(y), float(z)] for x, y, z in value["enu"]]
    except (ValueError, TypeError, KeyError, OverflowError):
        return None
    if not math.isfinite(time_s) or not all(math.isfinite(x) for position in positions for x in position):
        return None
    return time_s, positions


def separation(tracks: Tracks) -> SeparationSeries:
    """Smallest distances between airborne drones, with straight flight between the samples."""
    positions = tracks.position_enu_m
    steps, drones = positions.shape[0] - 1, tracks.drones
    flying = positions[:, :, 2] - positions[0, :, 2] > AIRBORNE_M
    both = flying[:-1] & flying[1:]
    first, second = np.triu_indices(drones, 1)
    smallest = np.full(steps + 1, np.nan)
    best = (math.inf, 0, 0)
    block = max(1, 2_000_000 // max(1, len(first)))
    for start in range(0, steps, block):
        stop = min(steps, start + block)
        if not len(first):
            break
        here = positions[start : stop + 1]
        gap = here[:, first] - here[:, second]  # (S+1, P, 3)
        move = gap[1:] - gap[:-1]
        length2 = np.einsum("spk,spk->sp", move, move)
        along = -np.einsum("spk,spk->sp", gap[:-1], move)
        share = np.clip(np.divide(along, length2, out=np.zeros_like(along), where=length2 > 0.0), 0.0, 1.0)
        nearest = gap[:-1] + share[:, :, None] * move
        distance = np.sqrt(np.einsum("spk,spk->sp", nearest, nearest))
        distance[~(both[start:stop, first] & both[start:stop, second])] = np.inf
        lowest = distance.min(axis=1)
        smallest[start + 1 : stop + 1] = np.where(np.isfinite(lowest), lowest, np.nan)
        step, column = divmod(int(np.argmin(distance)), distance.shape[1])
        if distance[step, column] < best[0]:
            best = (float(distance[step, column]), start + step + 1, column)
    if not math.isfinite(best[0]):
        return SeparationSeries(tracks.time_s, smallest, None, math.nan, (math.nan,) * 3)
    _, when, pair = best
    one, other = int(first[pair]), int(second[pair])
    middle = (positions[when, one] + positions[when, other]) / 2.0
    where = (float(middle[0]), float(middle[1]), float(middle[2]))
    return SeparationSeries(tracks.time_s, smallest, (one, other), float(tracks.time_s[when]), where)


def draw_tracks(
    source: Path | Tracks, picture: Path, *, title: str = "", asked_separation_m: float | None = None
) -> SeparationSeries:
    """Draws the plot as PNG and returns the separation that it shows.

    Raises TracksFailed.
    """
    tracks = read_tracks(source) if isinstance(source, Path) else source
    apart = separation(tracks)
    with drawing(16.0, 9.0, 110) as figure:
        _draw(figure, tracks, apart, title, asked_separation_m)
        save_picture(figure, picture)
    return apart


def _draw(
    figure: Figure, tracks: Tracks, apart: SeparationSeries, title: str, asked_separation_m: float | None
) -> None:
    grid = figure.add_gridspec(2, 2, width_ratios=(1.15, 1.0))
    plan = figure.add_subplot(grid[:, 0])
    heights = figure.add_subplot(grid[0, 1])
    distances = figure.add_subplot(grid[1, 1], sharex=heights)
    colours = colours_of(tracks.drones)
    _draw_plan(plan, tracks, apart, colours)
    _draw_heights(heights, tracks, colours)
    _draw_separation(distances, apart, asked_separation_m)
    if tracks.drones > LABELLED:
        _draw_colour_key(figure, plan, tracks.drones)
    duration_s = tracks.time_s[-1] - tracks.time_s[0]
    words = [label(title)] if title else []
    words += [f"{tracks.drones} drone{'s' if tracks.drones != 1 else ''}", f"{duration_s:.0f} s"]
    figure.suptitle("  ·  ".join(words), fontsize=16, color=INK, fontweight="bold")


def save_picture(figure: Figure, picture: Path) -> None:
    """Writes a figure as PNG, atomically. Raises TracksFailed."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    try:
        private_files.make_folder(picture.parent)
        private_files.write_file(picture, drawn.getvalue())
    except OSError as error:
        raise TracksFailed(f"the picture {picture} cannot be written: {error.strerror or error}") from error


def colours_of(count: int) -> list[tuple[float, float, float, float]]:
    """One colour (RGBA) per drone."""
    from matplotlib import colormaps

    if count <= 10:
        return [colormaps["tab10"](index) for index in range(count)]
    # The ends of turbo are nearly black, its yellow is hardly visible on white: crop, and darken a little.
    found = []
    for index in range(count):
        red, green, blue, _ = colormaps["turbo"](0.06 + 0.9 * index / (count - 1))
        found.append((0.88 * red, 0.88 * green, 0.88 * blue, 1.0))
    return found


def style(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    """Title, labels, grid and spines that all plots share."""
    axes.set_title(title, loc="left", fontsize=12, color=INK)
    axes.set_xlabel(x_label, color=INK)
    axes.set_ylabel(y_label, color=INK)
    axes.grid(True, color="#e4e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)


def line_style(count: int) -> tuple[float, float]:
    """Line width and opacity for so many drones."""
    return (1.6, 0.9) if count <= 10 else (1.2, 0.8) if count <= 30 else (0.8, 0.6)


def _draw_plan(axes: Axes, tracks: Tracks, apart: SeparationSeries, colours: list[Any]) -> None:
    from matplotlib.patheffects import withStroke

    style(axes, "Plan view", "east (m)", "north (m)")
    positions = tracks.position_enu_m
    width, opacity = line_style(tracks.drones)
    size = 42.0 if tracks.drones <= 30 else 20.0
    for index in range(tracks.drones):
        east, north = positions[:, index, 0], positions[:, index, 1]
        axes.plot(east, north, color=colours[index], linewidth=width, alpha=opacity, solid_capstyle="round")
    start, end = positions[0], positions[-1]
    axes.scatter(
        start[:, 0],
        start[:, 1],
        s=size,
        facecolors="white",
        edgecolors=colours,
        linewidths=1.4,
        zorder=4,
        label="start",
    )
    axes.scatter(end[:, 0], end[:, 1], s=0.55 * size, c=colours, marker="s", zorder=5, label="end")
    if tracks.drones <= LABELLED:
        for index in range(tracks.drones):
            text = axes.annotate(
                str(index + 1),
                (end[index, 0], end[index, 1]),
                xytext=(6, 5),
                textcoords="offset points",
                fontsize=9,
                color=colours[index],
                fontweight="bold",
                zorder=6,
            )
            text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])
    if apart.pair is not None:
        one, other = apart.pair
        axes.scatter(
            [apart.where_enu_m[0]],
            [apart.where_enu_m[1]],
            s=220,
            facecolors="none",
            edgecolors=ALARM,
            linewidths=1.6,
            zorder=7,
            label=f"closest approach: {one + 1} and {other + 1}, {apart.minimum_m:.2f} m",
        )
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.06)
    legend = axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.07), ncols=3, frameon=False, labelcolor=INK
    )
    for handle in legend.legend_handles[:2]:
        if handle is not None:
            handle.set_edgecolor(INK)  # type: ignore[attr-defined]  # a PathCollection


def _draw_heights(axes: Axes, tracks: Tracks, colours: list[Any]) -> None:
    style(axes, "Height above the datum", "", "up (m)")
    width, opacity = line_style(tracks.drones)
    for index in range(tracks.drones):
        axes.plot(
            tracks.time_s,
            tracks.position_enu_m[:, index, 2],
            color=colours[index],
            linewidth=width,
            alpha=opacity,
        )
    axes.margins(x=0.01)
    axes.tick_params(labelbottom=False)


def _draw_separation(axes: Axes, apart: SeparationSeries, asked_m: float | None) -> None:
    style(axes, "Smallest separation between two flying drones", "time (s)", "distance (m)")
    axes.margins(x=0.01)
    minimum = apart.minimum_m
    if minimum is None:
        text = "no two drones flew at the same time"
        axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=FAINT)
        return
    axes.plot(apart.time_s, apart.smallest_m, color=INK, linewidth=1.4)
    known = apart.smallest_m[np.isfinite(apart.smallest_m)]
    top = max(1.3 * float(np.percentile(known, 95)), 1.4 * (asked_m or 0.0), 0.5)
    axes.set_ylim(0.0, top)
    below = asked_m is not None and minimum < asked_m
    if asked_m is not None:
        axes.axhline(asked_m, color=ALARM, linewidth=1.2, linestyle=(0, (6, 4)))
        axes.fill_between(
            apart.time_s, apart.smallest_m, asked_m, where=apart.smallest_m < asked_m, color=ALARM, alpha=0.25
        )
        axes.annotate(
            f"required: {asked_m:g} m",
            (0.995, asked_m),
            xycoords=("axes fraction", "data"),
            xytext=(0, -5),
            textcoords="offset points",
            ha="right",
            va="top",
            color=ALARM,
            fontsize=10,
        )
    axes.scatter(
        [apart.when_s],
        [minimum],
        s=60,
        facecolors="none",
        edgecolors=ALARM,
        linewidths=1.6,
        zorder=5,
        clip_on=False,
    )
    axes.set_title(
        f"{minimum:.2f} m at {apart.when_s:.0f} s",
        loc="right",
        color=ALARM if below else GOOD,
        fontsize=12,
        fontweight="bold",
    )


def _draw_colour_key(figure: Figure, axes: Axes, count: int) -> None:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    key = ScalarMappable(Normalize(0.5, count + 0.5), ListedColormap(colours_of(count)))
    bar = figure.colorbar(key, ax=axes, location="left", fraction=0.03, pad=0.02, aspect=50)
    ticks = sorted({1, count, *range(10, count - 3, 10)})
    bar.set_ticks([float(tick) for tick in ticks])
    bar.set_label("drone", color=INK)
    bar.ax.tick_params(colors=INK, length=0)
    bar.outline.set_visible(False)
