"""The page of a report: one HTML file that needs nothing else, in light and dark."""

import base64
from collections.abc import Sequence
import html

from jaxdistill.run.console import counted
from jaxdistill.tools._report_data import Results
from jaxdistill.tools._report_part import Part
from jaxdistill.tools._report_theme import DARK, LIGHT, to_svg

MARK = "<!-- written by jaxdistill report -->"
"""What tells a report's page from other files: stands in its second line."""

_STYLE = (
  f"""
:root {{
  color-scheme: light dark;
  --background: {LIGHT.background};
  --ink: {LIGHT.ink};
  --muted: {LIGHT.muted};
  --line: {LIGHT.grid};
  --shade: #f5f7f9;
  --link: {LIGHT.colours[0]};
}}
@media (prefers-color-scheme: dark) {{
  :root {{
    --background: {DARK.background};
    --ink: {DARK.ink};
    --muted: {DARK.muted};
    --line: {DARK.grid};
    --shade: #1b2027;
    --link: {DARK.colours[0]};
  }}
}}
"""
  + """
* { box-sizing: border-box; }
body {
  margin: 0 auto;
  max-width: 74rem;
  padding: 2rem 1.5rem 4rem;
  background: var(--background);
  color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif;
}
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 0 0 .3rem; }
a { color: var(--link); }
p { margin: .3rem 0 .8rem; max-width: 52rem; }
.muted, section > p { color: var(--muted); font-size: .92rem; }
.conclusion { font-size: 1.1rem; margin: .8rem 0; }
nav { margin: 1rem 0 0; font-size: .92rem; }
nav a { display: inline-block; margin-right: 1.1rem; }
section { border-top: 1px solid var(--line); margin-top: 1.8rem; padding-top: 1.3rem; }
img { display: block; max-width: 100%; height: auto; margin: .9rem 0; }
.wide { overflow-x: auto; }
table {
  border-collapse: collapse;
  font-size: .88rem;
  font-variant-numeric: tabular-nums;
  margin: .6rem 0;
}
th, td { padding: .22rem .7rem .22rem 0; text-align: left; vertical-align: baseline; }
th:last-child, td:last-child { padding-right: .4rem; }
th { border-bottom: 1px solid var(--muted); font-weight: 600; vertical-align: bottom; }
td { border-bottom: 1px solid var(--line); white-space: nowrap; }
tbody tr:hover { background: var(--shade); }
.right { text-align: right; }
details { margin: .8rem 0; }
summary { cursor: pointer; }
pre {
  background: var(--shade);
  border-radius: 6px;
  font-size: .85rem;
  overflow-x: auto;
  padding: .9rem 1.1rem;
  white-space: pre-wrap;
}
@media print { nav { display: none; } section { break-inside: avoid; } }
"""
)

# A table of more lines is folded away below its figure.
_LONG = 60


def page(results: Results, lead: Sequence[str], parts: Sequence[Part]) -> str:
  """Returns the page.

  Args:
    results: what is reported.
    lead: lines below the title, the conclusion first.
    parts: in their order.
  """
  title = html.escape(results.title)
  body = [f"<h1>{title}</h1>\n"]
  for place, line in enumerate(lead):
    kind = "muted"
    if place == 0:
      kind = "conclusion"
    body.append(f'<p class="{kind}">{html.escape(line)}</p>\n')
  body.append(_contents(parts))
  for part in parts:
    body.append(_section(part))
  body.append(_about(results))
  return (
    f"<!DOCTYPE html>\n{MARK}\n"
    '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
    f"{''.join(body)}</body>\n</html>\n"
  )


def _contents(parts: Sequence[Part]) -> str:
  links = []
  for part in parts:
    links.append(f'<a href="#{part.slug}">{html.escape(part.title)}</a>')
  return f"<nav>{' '.join(links)}</nav>\n"


def _section(part: Part) -> str:
  pieces = [
    f'<section id="{part.slug}">\n<h2>{html.escape(part.title)}</h2>\n',
    f"<p>{html.escape(part.sentence)}</p>\n",
  ]
  table = f'<div class="wide">{part.table.to_html()}</div>\n'
  count = len(part.table.rows)
  if part.draw and count > _LONG:
    label = f"Table, {counted(count, 'line')}"
    table = f"<details><summary>{label}</summary>\n{table}</details>\n"
  pieces += [_figure(part), table, "</section>\n"]
  return "".join(pieces)


def _figure(part: Part) -> str:
  """Returns the figure of a part for light and for dark pages; "" if it has none."""
  if part.draw is None:
    return ""
  dark = _address(to_svg(part.draw, DARK))
  light = _address(to_svg(part.draw, LIGHT))
  alternative = html.escape(f"{part.title}: the numbers are in the table.", quote=True)
  return (
    "<picture>\n"
    f'<source media="(prefers-color-scheme: dark)" srcset="{dark}">\n'
    f'<img src="{light}" alt="{alternative}">\n'
    "</picture>\n"
  )


def _address(svg: bytes) -> str:
  return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def _about(results: Results) -> str:
  """Returns what the study says of itself, and what it ran on."""
  pieces = ['<section id="about">\n<h2>About</h2>\n']
  if results.about:
    pieces.append(f"<pre>{html.escape(results.about.strip())}</pre>\n")
  named = []
  for name, version in results.versions.items():
    named.append(f"{name} {version}")
  if named:
    pieces.append(f"<p>Versions: {html.escape(', '.join(named))}.</p>\n")
  pieces.append("</section>\n")
  return "".join(pieces)
