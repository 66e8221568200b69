"""Figures of matplotlib that take text from outside literally and look alike on every machine.

The user's settings (matplotlibrc) are not used: no LaTeX, no mathematics between dollar signs. Characters
that no installed font has are drawn as boxes, without a warning. `label` makes a text one line.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from chimera_ros.formats import display

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_LABEL: Final = 80  # characters
# For scripts that matplotlib's own font lacks; those that are installed are used, in this order.
FONTS: Final = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Noto Sans Arabic",
    "Noto Sans Devanagari",
    "Noto Emoji",
    "Symbola",
    "Unifont",
)


@contextlib.contextmanager
def drawing(width_in: float, height_in: float, dpi: float) -> Iterator[Figure]:
    """A figure of this size in inches, to be drawn and saved before the context ends."""
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)  # its warnings are about fonts, and about its cache of fonts
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.font_manager import fontManager
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        with matplotlib.rc_context(), warnings.catch_warnings():
            matplotlib.rcdefaults()
            installed = set(fontManager.get_font_names())
            own = matplotlib.rcParams["font.sans-serif"][0]
            matplotlib.rcParams["font.family"] = [own, *(name for name in FONTS if name in installed)]
            matplotlib.rcParams["text.parse_math"] = False
            warnings.filterwarnings("ignore", r"Glyph \d+ \(.*missing from", UserWarning)
            figure = Figure(figsize=(width_in, height_in), dpi=dpi, facecolor="white")
            figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
            FigureCanvasAgg(figure)
            yield figure
    finally:
        log.setLevel(level)


def label(text: str) -> str:
    """A text from outside for a title, label or legend."""
    return display.line(text, MAX_LABEL)
