"""Memory that stays with the process: where it is set, and that it works."""

import platform
import subprocess
import sys

import jax
import pytest

from jaxdistill.run import allocator

is_glibc = platform.libc_ver()[0] == "glibc"

COUNT_FAULTS = """
import ctypes, resource, sys
from jaxdistill.run import allocator
if sys.argv[1] == "keep":
  assert allocator.keep_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
def step():
  blocks = [libc.malloc(1 << 24) for _ in range(8)]
  for block in blocks:
    ctypes.memset(block, 1, 1 << 24)
  for block in blocks:
    libc.free(block)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_other_platforms_and_libraries_are_left_alone(monkeypatch):
  def refuse(name):
    raise AssertionError("the C library was changed")

  monkeypatch.setattr(allocator.ctypes, "CDLL", refuse)
  with monkeypatch.context() as patch:
    patch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert not allocator.keep_memory()
  monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
  chosen = jax.config.jax_platforms
  jax.config.update("jax_platforms", "tpu")
  try:
    assert not allocator.keep_memory()
  finally:
    jax.config.update("jax_platforms", chosen)


@pytest.mark.slow
@pytest.mark.skipif(not is_glibc, reason="another C library")
def test_a_second_step_finds_its_memory():
  def faults(what):
    command = [sys.executable, "-c", COUNT_FAULTS, what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)

  # Pages of 4 KiB: 32,768 of them in a step.
  assert faults("leave") > 1000
  assert faults("keep") < 100
