"""The figures of a report: each a function of what it shows and of a theme.

Legends stand beside the axes, never over data.
"""

from collections.abc import Mapping, Sequence
import itertools
import math
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, NullLocator
import numpy as np

from jaxdistill.tools._report_statistics import (
  BETTER,
  UNDECIDED,
  WORSE,
  Difference,
  Spread,
)
from jaxdistill.tools._report_theme import Theme, look

# Inches. A page shows 100 pixels for one.
_WIDTH = 10.4
_COLUMNS = 3

# Names in an agreement matrix stay readable up to here.
_MOST_NUMBERS = 8


class Series(NamedTuple):
  """A line.

  Attributes:
    label: of the legend; series of one label look alike in all panels.
    x: positions.
    y: values; NaN leaves a gap.
    low: lower edge of a band around them; empty for no band.
    high: upper edge.
    marked: positions in x that get a marker; None marks all.
  """

  label: str
  x: Sequence[float]
  y: Sequence[float]
  low: Sequence[float] = ()
  high: Sequence[float] = ()
  marked: Sequence[int] | None = None


class Panel(NamedTuple):
  """One of several small figures of a kind.

  Attributes:
    title: above it.
    series: its lines.
  """

  title: str
  series: Sequence[Series]


class Dot(NamedTuple):
  """A value of a row.

  Attributes:
    row: its place, from above.
    label: of the legend.
    spread: of its value over seeds.
  """

  row: str
  label: str
  spread: Spread


class Matrix(NamedTuple):
  """A square of values.

  Attributes:
    title: above it.
    names: of its rows and columns.
    values: [M, M].
  """

  title: str
  names: Sequence[str]
  values: Sequence[Sequence[float]]


# Parts of figures.


def _grid(
  count: int, *, height: float, columns: int = _COLUMNS, **shared: Any
) -> tuple[Figure, list[Axes]]:
  """Returns a figure of several panels, without empty ones.

  Args:
    count: of the panels.
    height: of one, in inches.
    columns: most of them side by side.
    **shared: of `subplots`.
  """
  columns = min(count, columns)
  rows = math.ceil(count / columns)
  # A single panel need not be as wide as the page.
  width = {1: 0.72, 2: 0.9}.get(columns, 1.0) * _WIDTH
  figure = Figure(figsize=(width, height * rows), layout="constrained")
  axes = list(figure.subplots(rows, columns, squeeze=False, **shared).flat)
  for empty in axes[count:]:
    empty.remove()
  for left in axes[max(0, count - columns) : count]:
    # The lowest of its column, also where the last row is not full.
    left.tick_params(labelbottom=True)
  return figure, axes[:count]


def _labels(panels: Sequence[Panel]) -> list[str]:
  """Returns the labels of all panels, each once, in the order of appearance."""
  names = itertools.chain.from_iterable(panel.series for panel in panels)
  return list(dict.fromkeys(series.label for series in names))


def _legend(figure: Figure, handles: Sequence[Any]) -> None:
  """Puts a legend to the right of all panels."""
  figure.legend(handles=handles, loc="outside right upper", handlelength=3.2)


def _line_handle(theme: Theme, position: int, label: str) -> Line2D:
  style = look(theme, position)
  return Line2D(
    [],
    [],
    label=label,
    color=style.color,
    marker=style.marker,
    linestyle=style.linestyle,
  )


# Figures.


def lines(
  theme: Theme,
  panels: Sequence[Panel],
  *,
  x: str,
  y: str,
  log: bool = False,
  diagonal: bool = False,
  columns: int = _COLUMNS,
) -> Figure:
  """Draws lines in one or several panels of the same axes.

  Args:
    theme: of the page.
    panels: what is drawn.
    x: label of the horizontal axis.
    y: label of the vertical axis.
    log: whether values are shown on a logarithmic scale.
    diagonal: whether a line marks where x equals y, both from 0 to 1.
    columns: most panels side by side.
  """
  height = 3.6
  if len(panels) > 1:
    height = 2.5
  if diagonal:
    height = 3.2
  figure, axes = _grid(
    len(panels), height=height, columns=columns, sharex=True, sharey=True
  )
  labels = _labels(panels)
  for ax, panel in zip(axes, panels, strict=True):
    ax.set_title(panel.title)
    if log:
      _show_logarithmic(ax)
    if diagonal:
      ax.plot([0, 1], [0, 1], color=theme.muted, linewidth=1, linestyle=":", zorder=1)
      ax.set_xlim(0, 1)
      ax.set_ylim(0, 1)
      ax.set_aspect("equal")
    for series in panel.series:
      _draw_series(ax, series, theme, labels.index(series.label))
  handles = [_line_handle(theme, place, label) for place, label in enumerate(labels)]
  if diagonal:
    perfect = Line2D([], [], color=theme.muted, linewidth=1, linestyle=":")
    perfect.set_label("calibrated")
    handles.append(perfect)
  _legend(figure, handles)
  figure.supxlabel(x, fontsize=9)
  figure.supylabel(y, fontsize=9)
  return figure


def _show_logarithmic(ax: Axes) -> None:
  """Makes the vertical axis logarithmic, with plain numbers at 1, 2 and 5."""
  ax.set_yscale("log")
  ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
  ax.yaxis.set_major_formatter("{x:g}")
  ax.yaxis.set_minor_locator(NullLocator())


def _draw_series(ax: Axes, series: Series, theme: Theme, position: int) -> None:
  style = look(theme, position)
  marked = series.marked
  if marked is None:
    marked = range(len(series.x))
  if len(series.low):
    ax.fill_between(
      series.x, series.low, series.high, color=style.color, alpha=0.13, linewidth=0
    )
  ax.plot(
    series.x,
    series.y,
    color=style.color,
    linestyle=style.linestyle,
    marker=style.marker,
    markevery=list(marked),
    markeredgecolor=theme.background,
    markeredgewidth=0.5,
  )


def areas(
  theme: Theme, panels: Sequence[Panel], *, x: str, y: str, names: Sequence[str]
) -> Figure:
  """Draws parts of a whole, one upon the other.

  Args:
    theme: of the page.
    panels: series of one panel have the same x, and values that add up to 1.
    x: label of the horizontal axis.
    y: label of the vertical axis.
    names: labels in the order in which series are coloured.
  """
  height = 3.0
  if len(panels) > 1:
    height = 2.3
  figure, axes = _grid(len(panels), height=height, sharex=True, sharey=True)
  for ax, panel in zip(axes, panels, strict=True):
    ax.set_title(panel.title)
    below = np.zeros(len(panel.series[0].x))
    for series in panel.series:
      style = look(theme, names.index(series.label))
      above = below + np.asarray(series.y)
      ax.fill_between(
        series.x,
        below,
        above,
        step="pre",
        facecolor=style.color,
        hatch=style.hatch,
        edgecolor=theme.background,
        linewidth=0.8,
      )
      below = above
    ax.set_ylim(0, 1)
    ax.margins(x=0)
    ax.grid(False)
  handles = []
  # As they lie upon each other.
  for label in reversed(_labels(panels)):
    style = look(theme, names.index(label))
    handles.append(Patch(facecolor=style.color, hatch=style.hatch, label=label))
  _legend(figure, handles)
  figure.supxlabel(x, fontsize=9)
  figure.supylabel(y, fontsize=9)
  return figure


# Verdict -> position in the palette, or None for a muted one, and marker.
_VERDICTS = {BETTER: (0, "^"), WORSE: (1, "v"), UNDECIDED: (None, "o")}


def forest(
  theme: Theme, panels: Mapping[str, Sequence[tuple[str, Difference]]], *, x: str
) -> Figure:
  """Draws differences with their intervals, and zero, in a panel for each comparison.

  Args:
    theme: of the page.
    panels: title -> (row, difference).
    x: label of the horizontal axis; differences of fractions are shown in points.
  """
  names = []
  for entries in panels.values():
    names += [name for name, _ in entries]
  names = list(dict.fromkeys(names))
  height = 1.1 + 0.3 * len(names)
  figure, axes = _grid(len(panels), height=height, columns=4, sharex=True, sharey=True)
  for ax, (title, entries) in zip(axes, panels.items(), strict=True):
    ax.set_title(title)
    ax.axvline(0, color=theme.muted, linewidth=1)
    for name, difference in entries:
      _draw_difference(ax, theme, names.index(name), difference)
    ax.set_yticks(range(len(names)), names)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(x)
  axes[0].set_ylim(len(names) - 0.5, -0.5)
  handles = [_verdict_handle(theme, verdict) for verdict in _VERDICTS]
  figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
  return figure


def _draw_difference(
  ax: Axes, theme: Theme, place: int, difference: Difference
) -> None:
  if math.isnan(difference.mean):
    return
  handle = _verdict_handle(theme, difference.verdict)
  color = handle.get_color()
  interval = [100 * difference.low, 100 * difference.high]
  ax.plot(interval, [place, place], color=color, linewidth=2)
  ax.plot(
    [100 * difference.mean],
    [place],
    color=color,
    marker=handle.get_marker(),
    markerfacecolor=handle.get_markerfacecolor(),
    markersize=7,
  )


def _verdict_handle(theme: Theme, verdict: str) -> Line2D:
  """Returns how a difference is drawn: filled where rows are told apart."""
  position, marker = _VERDICTS[verdict]
  color, face = theme.muted, theme.background
  if position is not None:
    color = face = theme.colours[position]
  return Line2D(
    [], [], color=color, marker=marker, markerfacecolor=face, label=verdict, linewidth=2
  )


def dots(
  theme: Theme, entries: Sequence[Dot], published: Sequence[Dot], *, x: str
) -> Figure:
  """Draws means with their standard deviations, a line for each row.

  Args:
    theme: of the page.
    entries: the values; fractions are shown in per cent.
    published: the paper's, which have no spread.
    x: label of the horizontal axis.
  """
  rows = list(dict.fromkeys(entry.row for entry in entries))
  labels = list(dict.fromkeys(entry.label for entry in entries))
  height = 0.9 + max(0.42, 0.15 * len(labels)) * len(rows)
  figure, (ax,) = _grid(1, height=max(height, 2.2))
  for place in range(len(rows)):
    if place % 2:
      ax.axhspan(place - 0.5, place + 0.5, color=theme.grid, alpha=0.45, linewidth=0)
  for entry in entries:
    position = labels.index(entry.label)
    style = look(theme, position)
    sd = entry.spread.sd
    if math.isnan(sd):
      sd = 0.0
    ax.errorbar(
      [100 * entry.spread.mean],
      [rows.index(entry.row) + _offset(position, len(labels))],
      xerr=[100 * sd],
      color=style.color,
      marker=style.marker,
      elinewidth=1.3,
    )
  for entry in published:
    place = rows.index(entry.row) + _offset(labels.index(entry.label), len(labels))
    ax.plot([100 * entry.spread.mean], [place], **_PAPER, markeredgecolor=theme.ink)
  ax.set_yticks(range(len(rows)), rows)
  ax.set_ylim(len(rows) - 0.5, -0.5)
  ax.tick_params(axis="y", length=0)
  ax.grid(axis="y", visible=False)
  ax.set_xlabel(x)
  handles = []
  for position, label in enumerate(labels):
    style = look(theme, position)
    handles.append(
      Line2D([], [], color=style.color, marker=style.marker, label=label, linewidth=1.3)
    )
  if published:
    handles.append(
      Line2D([], [], **_PAPER, markeredgecolor=theme.ink, label="the paper's value")
    )
  _legend(figure, handles)
  return figure


_PAPER: dict[str, Any] = {
  "marker": "|",
  "markersize": 11,
  "markeredgewidth": 2,
  "linestyle": "none",
}


def _offset(position: int, count: int) -> float:
  """Returns where in its line the value of one of several labels stands."""
  if count == 1:
    return 0.0
  return 0.66 * (position / (count - 1) - 0.5)


def matrices(theme: Theme, panels: Sequence[Matrix], *, bar: str) -> Figure:
  """Draws square tables of fractions as colours, with their numbers.

  Args:
    theme: of the page.
    panels: what is drawn, with one scale of colours.
    bar: label of the scale.
  """
  figure, axes = _grid(len(panels), height=3.0)
  squares = [_without_diagonal(panel.values) for panel in panels]
  lowest = min(float(np.nanmin(values, initial=1.0)) for values in squares)
  # Less than this difference is none that a colour should tell.
  lowest = min(lowest, 0.9)
  image = None
  for ax, panel, values in zip(axes, panels, squares, strict=True):
    image = ax.imshow(values, cmap="cividis", vmin=lowest, vmax=1)
    ax.set_title(panel.title)
    places = range(len(panel.names))
    ax.set_xticks(places, panel.names, rotation=35, ha="right", rotation_mode="anchor")
    ax.set_yticks(places, panel.names)
    ax.tick_params(length=0, labelbottom=True)
    ax.grid(False)
    for side in ("left", "bottom"):
      ax.spines[side].set_visible(False)
    if len(panel.names) <= _MOST_NUMBERS:
      _write_numbers(ax, values, lowest)
  assert image is not None, "there is a panel"
  scale = figure.colorbar(image, ax=axes, shrink=0.8, aspect=25, label=bar)
  scale.outline.set_visible(False)
  return figure


def _without_diagonal(values: Sequence[Sequence[float]]) -> np.ndarray:
  """Returns a matrix with gaps where a member would be compared with itself."""
  square = np.array(values, float)
  np.fill_diagonal(square, np.nan)
  return square


def _write_numbers(ax: Axes, values: np.ndarray, lowest: float) -> None:
  """Writes each value of a matrix into its square."""
  middle = (lowest + 1) / 2
  for (row, column), value in np.ndenumerate(values):
    if np.isnan(value):
      continue
    color = "#ffffff"
    if value > middle:
      color = "#000000"
    ax.text(
      column, row, f"{100 * value:.1f}", ha="center", va="center", color=color, size=8.5
    )


def ratios(
  theme: Theme, rows: Mapping[str, Sequence[float]], *, x: str, one: str
) -> Figure:
  """Draws a ratio of every row: a bar for the median, a dot for each seed.

  Args:
    theme: of the page.
    rows: row -> ratios of its seeds.
    x: label of the horizontal axis.
    one: label of the line at 1.
  """
  figure, (ax,) = _grid(1, height=max(2.0, 1.0 + 0.34 * len(rows)))
  style = look(theme, 0)
  for place, values in enumerate(rows.values()):
    ax.barh(place, np.median(values), height=0.55, color=style.color, alpha=0.35)
    ax.plot(
      values,
      [place] * len(values),
      color=style.color,
      marker=style.marker,
      markersize=4,
      linestyle="none",
    )
  ax.axvline(1, color=theme.ink, linewidth=1, linestyle="--")
  ax.set_yticks(range(len(rows)), list(rows))
  ax.set_ylim(len(rows) - 0.5, -0.5)
  ax.tick_params(axis="y", length=0)
  ax.grid(axis="y", visible=False)
  ax.set_xlim(left=0)
  ax.set_xlabel(x)
  handles = [
    Patch(facecolor=style.color, alpha=0.35, label="median"),
    Line2D([], [], color=style.color, marker="o", linestyle="none", label="a seed"),
    Line2D([], [], color=theme.ink, linewidth=1, linestyle="--", label=one),
  ]
  _legend(figure, handles)
  return figure
