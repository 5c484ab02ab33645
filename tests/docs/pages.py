"""The pages of the documentation: their Python blocks, and the commands they show."""

from pathlib import Path
import re
import shlex
from typing import Any, NamedTuple

from tests.helpers import runs

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(r"# (\w+\.py)\n")


def all_pages() -> list[Path]:
  """README, the other pages at the root, and those in docs and launch."""
  pages = []
  for folder in (runs.ROOT, runs.ROOT / "docs", runs.ROOT / "launch"):
    pages += folder.glob("*.md")
  return sorted(pages)


def name_of(page: Path) -> str:
  """Path of a page below the repository's root."""
  return str(page.relative_to(runs.ROOT))


def blocks(page: Path, language: str) -> list[str]:
  """Fenced blocks of a page in one language."""
  return [text for kind, text in _BLOCK.findall(page.read_text()) if kind == language]


def prose(page: Path) -> str:
  """A page without its fenced blocks."""
  return _BLOCK.sub("", page.read_text())


def inline_code(page: Path) -> list[str]:
  """What stands between backquotes outside of blocks."""
  return _INLINE.findall(prose(page))


def run(page: Path, folder: Path) -> dict[str, Any]:
  """Runs the Python blocks of a page in order, in `folder`, which is to be on the path.

  A block whose first line is a comment with the name of a file is written there as
  that file, for the others to import; all others share one namespace, which is
  returned.
  """
  (folder / "configs").symlink_to(runs.ROOT / "configs")
  names: dict[str, Any] = {"__name__": name_of(page)}
  for number, source in enumerate(blocks(page, "python"), 1):
    file = _FILE.match(source)
    if file:
      (folder / file[1]).write_text(source)
    else:
      exec(compile(source, f"{name_of(page)}, block {number}", "exec"), names)
  return names


class Command(NamedTuple):
  """A command that a page shows.

  Attributes:
    module: what `python -m` is given.
    arguments: the rest of the command line.
  """

  module: str
  arguments: tuple[str, ...]


def commands(page: Path) -> list[Command]:
  """All `python -m ...` commands of a page, in blocks and in the text."""
  lines = []
  for block in [*blocks(page, "bash"), *blocks(page, "")]:
    lines += block.replace("\\\n", " ").splitlines()
  found = []
  for line in [*lines, *inline_code(page)]:
    before, is_command, rest = line.partition("python -m ")
    if is_command and "`" not in before:
      # A comment after a command, and what follows a command in a chain, is left out.
      words = shlex.split(re.split(r" && | \| |  +#", rest)[0])
      found.append(Command(words[0], tuple(words[1:])))
  return found
