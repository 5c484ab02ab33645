"""The page about config keys is what the command prints: every key and component."""

import pytest

from jaxdistill import __main__
from jaxdistill.core import registry
from jaxdistill.run.config import KEYS
from jaxdistill.tools.keys import documented, reference
from tests.helpers import runs

PAGE = runs.ROOT / "docs" / "configs.md"


def test_the_page_is_current():
  assert PAGE.read_text() == reference(), (
    "docs/configs.md is not current: python -m jaxdistill keys > docs/configs.md"
  )


def test_the_command_prints_it(capsys):
  assert __main__.main(["keys"]) == 0
  assert capsys.readouterr().out == reference()


def test_every_key_and_every_component_is_there():
  page = reference()
  for key in KEYS:
    assert f"| `{key.name}` |" in page
  for kind in registry.KINDS:
    for name in registry.list_available(kind):
      assert f"### `{name}`" in page
      for key in registry.keywords(kind, name):
        assert f".{key}` |" in page


DOCSTRING = """Returns something.

  Args: are explained here, which is no list.

  Args:
    width: in pixels,
      at least 1.
    low, high: a range: both
      are included.

  Raises:
    ConfigError: not an argument.
  """


@pytest.mark.parametrize(
  "docstring, meanings",
  [
    (
      DOCSTRING,
      {
        "width": "in pixels, at least 1.",
        "low": "a range: both are included.",
        "high": "a range: both are included.",
      },
    ),
    ("Returns something.", {}),
    (None, {}),
  ],
)
def test_meanings_are_read_from_docstrings(docstring, meanings):
  assert documented(docstring) == meanings
