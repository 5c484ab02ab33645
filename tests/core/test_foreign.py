"""Files that may be anything: opened if they are files, refused at once if not."""

import os
from pathlib import Path

import pytest

from jaxdistill.core.foreign import (
  UnusableFile,
  expand,
  parse_json,
  read_file,
  read_json,
)
from jaxdistill.errors import reason
from tests.faults.malformed import PLACES


def test_a_file_is_read_up_to_its_limit(tmp_path):
  path = tmp_path / "file"
  path.write_bytes(b"12345")
  assert read_file(path, max_bytes=5) == b"12345"
  with pytest.raises(UnusableFile, match="it has 5 bytes, more than 4"):
    read_file(path, max_bytes=4)
  # It says that it is empty.
  with pytest.raises(UnusableFile, match="it has more than 4 bytes"):
    read_file(Path("/proc/self/maps"), max_bytes=4)


MESSAGES = {
  "pipe": "it is a pipe, not a file",
  "socket": "it is a socket, not a file",
  "folder": "it is a directory, not a file",
  "zeros": "it is a device, not a file",
  "null": "it is a device, not a file",
  "parent": "it is a directory, not a file",
  "loop": "Too many levels of symbolic links",
  "dangling": "No such file or directory",
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path, kind):
  path = tmp_path / "it"
  PLACES[kind](path)
  with pytest.raises(OSError) as caught:
    read_file(path, max_bytes=100)
  assert reason(caught.value) == MESSAGES[kind]


def test_a_pipe_that_takes_the_place_of_a_file_does_not_block(tmp_path, monkeypatch):
  path = tmp_path / "it"
  path.write_bytes(b"x")
  before = os.stat(path)
  path.unlink()
  os.mkfifo(path)
  monkeypatch.setattr(os, "stat", lambda *args, **kwargs: before)
  with pytest.raises(UnusableFile, match="a pipe"):
    read_file(path, max_bytes=100)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "x/" * 3000, "\ud800"])
def test_names_that_no_file_can_have_are_refused(tmp_path, name):
  with pytest.raises(OSError):
    read_file(tmp_path / name, max_bytes=100)


def test_a_home_that_nobody_has_stays_as_it_is():
  assert expand("~nobody-of-this-name/x") == Path("~nobody-of-this-name/x")
  assert expand("~/x") == Path.home() / "x"


def test_json_is_read_strictly(tmp_path):
  path = tmp_path / "x.json"
  path.write_text('{"a": [1, 2.5, null]}')
  assert read_json(path, max_bytes=100) == {"a": [1, 2.5, None]}
  with pytest.raises(ValueError, match="it has a key twice"):
    parse_json(b'{"a": 1, "b": {"c": 1, "c": 1}}')
  with pytest.raises(ValueError, match="nested too deeply"):
    parse_json(b"[" * 100_000)
  for content in (b"", b"{", b"\xff\xfe", b"1 2", b"9" * 5000):
    with pytest.raises(ValueError):
      parse_json(content)
