"""Checkpoints that a thread writes: one at a time, complete, and their errors told."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.errors import StorageError
from jaxdistill.run.checkpoint import Checkpoints
from jaxdistill.run.saver import Saver


class Slow(Checkpoints):
  """Writes when it is told to; those of odd steps fail."""

  def __init__(self, directory):
    super().__init__(directory)
    self.go_on = threading.Semaphore(0)
    self.begun = []

  def save(self, state, step, **extra):
    self.begun.append(step)
    assert self.go_on.acquire(timeout=10)
    if step % 2:
      raise StorageError(f"step {step} cannot be written")
    return super().save(state, step, **extra)


@pytest.fixture
def slow(tmp_path):
  return Slow(tmp_path)


def test_what_is_saved_is_the_state_as_it_was(slow):
  state = {"a": jnp.arange(4.0), "key": jax.random.key(3)}
  history = {"columns": {"wins": [1.0]}}
  with Saver(slow) as saver:
    saver.save(state, 2, history=history)
    history["columns"]["wins"][0] = 2.0
    after = jax.jit(lambda x: x + 1, donate_argnums=0)(state["a"])
    assert after[0] == 1
    slow.go_on.release()
  like = {"a": after, "key": state["key"]}
  restored, manifest = slow.restore(like)
  np.testing.assert_array_equal(restored["a"], np.arange(4.0))
  assert jax.random.key_data(restored["key"])[1] == 3
  assert manifest["history"]["columns"] == {"wins": [1.0]}


def test_one_is_written_at_a_time_and_the_end_waits(slow):
  state = {"a": jnp.zeros(2)}
  with Saver(slow) as saver:
    saver.save(state, 2, history={})
    saver.check()
    assert not slow.exist()
    later = threading.Timer(0.05, slow.go_on.release, [2])
    later.start()
    saver.save(state, 4, history={})
    # The first one is complete before the second one begins.
    assert slow.restore(state)[1]["step"] in (2, 4)
  assert slow.begun == [2, 4]
  assert slow.restore(state)[1]["step"] == 4


@pytest.mark.parametrize("where", ["check", "save", "wait", "end"])
def test_an_error_is_told_once_at_the_next_occasion(slow, where):
  state = {"a": jnp.zeros(2)}
  slow.go_on.release()
  saver = Saver(slow)
  with pytest.raises(StorageError, match="^step 3 cannot be written$"), saver:
    saver.save(state, 3, history={})
    if where == "check":
      while True:
        saver.check()
    if where == "save":
      saver.save(state, 4, history={})
    if where == "wait":
      saver.wait()
  saver.wait()
  assert slow.begun == [3]


def test_another_error_is_told_before_that_of_a_checkpoint(slow):
  slow.go_on.release()
  with pytest.raises(KeyError), Saver(slow) as saver:
    saver.save({"a": jnp.zeros(2)}, 3, history={})
    raise KeyError


def test_several_processes_write_at_once(slow, monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  with Saver(slow) as saver, pytest.raises(StorageError, match="step 3"):
    slow.go_on.release()
    saver.save({"a": jnp.zeros(2)}, 3, history={})
