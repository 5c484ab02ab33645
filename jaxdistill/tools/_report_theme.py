"""How the figures of a report look, on light and on dark pages, and how they are drawn.

The same figure gives the same bytes: it has no date, and its parts have fixed names.
"""

from collections.abc import Callable
import io
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure


class Theme(NamedTuple):
  """Colours of a page.

  Attributes:
    background: behind everything.
    ink: of texts and axes.
    muted: of what is less important.
    grid: of the lines behind the data.
    colours: of series, told apart also by people who are colour-blind.
  """

  background: str
  ink: str
  muted: str
  grid: str
  colours: tuple[str, ...]


# The palette of M. Okabe and K. Ito, 2008. Its yellow is too pale for a light page, its
# blue and its black are too dark for a dark one.
LIGHT = Theme(
  background="#ffffff",
  ink="#1b1f24",
  muted="#6b7280",
  grid="#e3e6ea",
  colours=("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"),
)
DARK = Theme(
  background="#14181d",
  ink="#e6e9ed",
  muted="#98a2ae",
  grid="#2c333b",
  colours=("#56b4e9", "#f0803c", "#2fc79a", "#e39ac4", "#f0e442", "#8fa8ff", "#f2f2f2"),
)

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (6, 2, 1, 2)))
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "+++")

Draw = Callable[[Theme], Figure]


class Look(NamedTuple):
  """How a series is drawn: no two among the first 28 agree.

  Attributes:
    color: of line and marker.
    marker: of its points.
    linestyle: of its line.
    hatch: of its area.
  """

  color: str
  marker: str
  linestyle: Any
  hatch: str


def look(theme: Theme, position: int) -> Look:
  """Returns how the series at a position is drawn."""
  count = len(theme.colours)
  return Look(
    color=theme.colours[position % count],
    marker=MARKERS[position % count],
    # Lines that stand beside each other differ without their colours as well.
    linestyle=DASHES[(position % count + position // count) % len(DASHES)],
    hatch=HATCHES[position % count],
  )


def to_svg(draw: Draw, theme: Theme) -> bytes:
  """Returns a figure as SVG, whose texts are drawn: it needs no font."""
  return _render(draw, theme, format="svg", metadata={"Date": None, "Creator": None})


def to_png(draw: Draw, theme: Theme) -> bytes:
  """Returns a figure as PNG, for slides and papers."""
  return _render(draw, theme, format="png", dpi=200, metadata={"Software": None})


def _render(draw: Draw, theme: Theme, **options: Any) -> bytes:
  # The user's own settings must not show.
  with matplotlib.rc_context():
    matplotlib.rcdefaults()
    matplotlib.rcParams.update(_settings(theme))
    file = io.BytesIO()
    draw(theme).savefig(file, **options)
  return file.getvalue()


def _settings(theme: Theme) -> Any:
  """Returns matplotlib's settings: a table of names and values."""
  return {
    "svg.hashsalt": "jaxdistill",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.facecolor": theme.background,
    "axes.edgecolor": theme.muted,
    "axes.labelcolor": theme.ink,
    "axes.titlecolor": theme.ink,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.use_mathtext": True,
    "grid.color": theme.grid,
    "grid.linewidth": 0.7,
    "figure.facecolor": theme.background,
    "figure.edgecolor": theme.background,
    "savefig.facecolor": theme.background,
    "text.color": theme.ink,
    "xtick.color": theme.muted,
    "ytick.color": theme.muted,
    "xtick.labelcolor": theme.ink,
    "ytick.labelcolor": theme.ink,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "hatch.color": theme.background,
    "hatch.linewidth": 0.6,
  }
