"""Slow work in a thread: its result, its errors, and a run that stops meanwhile."""

import subprocess
import sys
import threading
import time

import pytest

from jaxdistill.run import background
from tests.helpers import runs


def test_what_the_work_returns_or_raises_is_passed_on():
  assert background.wait_for(lambda: 5, lambda: True) == 5
  with pytest.raises(ZeroDivisionError):
    background.wait_for(lambda: 1 // 0, lambda: False)


def test_a_request_to_stop_gives_the_work_up():
  release = threading.Event()
  start = time.perf_counter()
  with pytest.raises(background.Stopped):
    background.wait_for(release.wait, lambda: time.perf_counter() - start > 0.1)
  release.set()


def test_ctrl_c_gives_the_work_up():
  release = threading.Event()

  def interrupt():
    raise KeyboardInterrupt

  with pytest.raises(KeyboardInterrupt):
    background.wait_for(release.wait, interrupt)
  release.set()


def test_a_process_does_not_wait_for_work_that_was_given_up():
  code = (
    "import sys, time\n"
    "from jaxdistill.run import background\n"
    "try:\n"
    "  background.wait_for(lambda: time.sleep(60), lambda: True)\n"
    "except background.Stopped:\n"
    "  print('stopped')\n"
    "sys.exit(background.leave(75))"
  )
  result = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    text=True,
    timeout=30,
    cwd=runs.ROOT,
  )
  assert result.returncode == 75 and result.stdout == "stopped\n", result.stderr
