"""A table of a report, which is shown to people and written for programs."""

from collections.abc import Callable, Sequence
import csv
import html
import io
import math
from typing import Any, NamedTuple

NOTHING = "–"
"""What a cell without a value shows."""


class Column(NamedTuple):
  """A column of a table.

  Attributes:
    key: its name for programs.
    heading: its name for people.
    show: value -> text for people; None for a text, which is shown as it is.
    fields: attributes of a value that programs get a column of each; none for a plain
      value.
    is_text: whether what is shown is a text all the same, which stands to the left.
  """

  key: str
  heading: str
  show: Callable[[Any], str] | None = None
  fields: tuple[str, ...] = ()
  is_text: bool = False

  @property
  def keys(self) -> list[str]:
    """The columns that programs get."""
    if not self.fields:
      return [self.key]
    return [f"{self.key}_{field}" for field in self.fields]

  def plain(self, value: Any) -> list[Any]:
    """Returns the values of these columns."""
    values = [value]
    if self.fields:
      values = [getattr(value, field, None) for field in self.fields]
    # The writer leaves the place of None empty.
    return [_number_or_none(number) for number in values]

  def text(self, value: Any) -> str:
    """Returns a value as people read it."""
    if is_missing(value):
      return NOTHING
    if self.show is None:
      return str(value)
    return self.show(value)

  @property
  def align(self) -> str:
    """Where its values stand."""
    if self.show is None or self.is_text:
      return "left"
    return "right"


class Table(NamedTuple):
  """Rows of values.

  Attributes:
    columns: what the values are.
    rows: a value for each column; None where there is none.
  """

  columns: Sequence[Column]
  rows: Sequence[Sequence[Any]]

  def to_csv(self) -> str:
    """Returns it for programs: fractions and seconds, unrounded."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    header = []
    for column in self.columns:
      header += column.keys
    writer.writerow(header)
    for row in self.rows:
      line = []
      for column, value in zip(self.columns, row, strict=True):
        line += column.plain(value)
      writer.writerow(line)
    return file.getvalue()

  def to_markdown(self) -> str:
    """Returns it as a table of Markdown."""
    rules = {"left": ":--", "right": "--:"}
    headings = [_in_markdown(column.heading) for column in self.columns]
    lines = [headings, [rules[column.align] for column in self.columns]]
    for row in self._texts():
      lines.append([_in_markdown(text) for text in row])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

  def to_html(self) -> str:
    """Returns it as a table of HTML."""
    parts = ["<table>\n<thead><tr>"]
    for column in self.columns:
      parts.append(f'<th class="{column.align}">{html.escape(column.heading)}</th>')
    parts.append("</tr></thead>\n<tbody>\n")
    for row in self._texts():
      parts.append("<tr>")
      for column, text in zip(self.columns, row, strict=True):
        parts.append(f'<td class="{column.align}">{html.escape(text)}</td>')
      parts.append("</tr>\n")
    parts.append("</tbody></table>\n")
    return "".join(parts)

  def _texts(self) -> list[list[str]]:
    """Returns all values as people read them."""
    texts = []
    for row in self.rows:
      pairs = zip(self.columns, row, strict=True)
      texts.append([column.text(value) for column, value in pairs])
    return texts


def is_missing(value: Any) -> bool:
  """Tells whether there is no value: None, or no number."""
  return value is None or (isinstance(value, float) and math.isnan(value))


def _number_or_none(value: Any) -> Any:
  if is_missing(value):
    return None
  return value


def _in_markdown(text: str) -> str:
  return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")


# How numbers are shown.


def percent(value: float) -> str:
  """Returns a fraction in per cent."""
  return f"{100 * value:.2f}"


def points(value: float) -> str:
  """Returns a difference of fractions in percentage points, with its sign."""
  text = f"{100 * value:+.2f}"
  if float(text) == 0:
    return "0.00"
  return text.replace("-", "−")


def whole(value: float) -> str:
  """Returns a whole number."""
  return f"{value:,.0f}"


def decimals(value: float) -> str:
  """Returns a number with three digits behind the point."""
  return f"{value:.3f}".replace("-", "−")


def significant(value: float) -> str:
  """Returns a number with three significant digits."""
  return f"{value:.3g}"


def ratio(value: float) -> str:
  """Returns a ratio."""
  return f"{value:.2f} ×"
