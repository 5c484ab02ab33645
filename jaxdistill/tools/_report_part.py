"""A part of a report: a sentence, a figure and a table."""

from typing import NamedTuple

from jaxdistill.tools._report_table import Table
from jaxdistill.tools._report_theme import Draw


class Part(NamedTuple):
  """What a report says of one thing.

  Attributes:
    slug: name of its files.
    title: above it.
    sentence: what it shows, in which unit, and how it was computed.
    table: what people are shown.
    draw: theme -> its figure; None if there is none.
    data: what programs get; None for the same table.
  """

  slug: str
  title: str
  sentence: str
  table: Table
  draw: Draw | None = None
  data: Table | None = None

  def to_csv(self) -> str:
    """Returns it for programs."""
    return (self.data or self.table).to_csv()

  def to_markdown(self) -> str:
    """Returns it as a page of Markdown, beside which the figure lies."""
    parts = [f"## {self.title}\n", f"{self.sentence}\n"]
    if self.draw:
      parts.append(f"![{self.title}]({self.slug}.png)\n")
    parts.append(self.table.to_markdown())
    return "\n".join(parts)
