"""Where the pages' examples are run."""

import pytest


@pytest.fixture
def workplace(tmp_path, monkeypatch):
  """An empty folder to work in, from which Python imports."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  return tmp_path
