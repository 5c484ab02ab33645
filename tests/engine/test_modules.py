"""Updates of modules and members: each one's own clipping, average, clock and fate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core.method import SHARED, GroupSpec
from jaxdistill.engine.modules import start_modules, update_modules
from tests.helpers import toy

KEYS = {"momentum": 0.0, "weight_decay": 0.0, "clip_norm": 0.0, "learning_rate": 1.0}


def specs_of(average=0.0):
  """A group "net" of two members and a group "wide" of one."""
  sizes = {"net": 2, "wide": 1}
  tx = toy.optimizer()
  return [
    GroupSpec(name, None, size, tx, average=average) for name, size in sizes.items()
  ]


class Course:
  """Modules of every kind of owner, three numbers each, and how they are moved."""

  def __init__(self, average=0.0, **keys):
    self.specs = specs_of(average)
    tx = toy.optimizer(**{**KEYS, **keys})
    self.optimizers = lambda owner: tx
    variables = {
      "net": ({"w": jnp.zeros((2, 3))}, {"mean": jnp.zeros((2, 1))}),
      "wide.0": ({"w": jnp.zeros(3)}, {}),
      SHARED: ({"w": jnp.zeros(3)}, {}),
    }
    self.start = start_modules(self.specs, self.optimizers, variables)

  def move(self, modules, grads, step=0, alive=(True, True, True), stats=None):
    return update_modules(
      self.specs,
      self.optimizers,
      modules,
      {owner: {"w": jnp.asarray(grad, jnp.float32)} for owner, grad in grads.items()},
      stats or {},
      alive=jnp.array(alive),
      step=jnp.int32(step),
    )


def gradients(net0=1.0, net1=1.0, wide=1.0, shared=1.0):
  """A constant gradient for every owner."""
  return {
    "net": [[net0] * 3, [net1] * 3],
    "wide.0": [wide] * 3,
    SHARED: [shared] * 3,
  }


def moved(modules):
  """Whether the weights of net.0, net.1, wide.0 and everybody's are not zero."""
  rows = [
    *modules["net"].params["w"],
    *(modules[o].params["w"] for o in list(modules)[1:]),
  ]
  return [bool(jnp.any(row != 0)) for row in rows]


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_modules_that_are_not_finite_are_held_alone_and_counted(bad):
  course = Course()
  update = course.move(course.start, gradients(net1=bad))
  assert moved(update.modules) == [True, False, True, True]
  assert update.updated.tolist() == [True, False, True]
  assert bool(update.shared_updated)
  assert update.modules["net"].held.tolist() == [0, 1]
  again = course.move(update.modules, gradients(net1=bad))
  assert again.modules["net"].held.tolist() == [0, 2]
  assert course.move(again.modules, gradients()).modules["net"].held.tolist() == [0, 0]

  update = course.move(course.start, gradients(shared=bad))
  assert moved(update.modules) == [True, True, True, False]
  assert update.updated.all()
  assert not update.shared_updated


def test_a_diverged_members_modules_keep_weights_and_statistics():
  course = Course()
  stats = {"net": {"mean": jnp.ones((2, 1))}}
  update = course.move(
    course.start, gradients(), alive=(True, False, False), stats=stats
  )
  assert moved(update.modules) == [True, False, False, True]
  assert update.modules["net"].stats["mean"].ravel().tolist() == [1, 0]


def test_clipping_is_by_each_members_own_norm():
  course = Course(clip_norm=1.0)
  update = course.move(course.start, gradients(net0=1000.0, net1=0.1, shared=0.2))
  weights = update.modules["net"].params["w"]
  np.testing.assert_allclose(jnp.linalg.norm(weights[0]), 1, rtol=1e-5)
  np.testing.assert_allclose(weights[1], -0.1, rtol=1e-5)
  np.testing.assert_allclose(update.modules[SHARED].params["w"], -0.2, rtol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_averages_move_once_for_every_update(accumulate):
  """Not in the steps in which gradients are only collected."""
  course = Course(average=0.5, accumulate=accumulate)
  modules = course.start
  expected = 0.0
  for update in range(2):
    for micro_step in range(accumulate):
      before = modules["net"].average["params"]["w"]
      step = update * accumulate + micro_step
      modules = course.move(modules, gradients(), step=step).modules
      if micro_step + 1 < accumulate:
        np.testing.assert_array_equal(modules["net"].average["params"]["w"], before)
    rate = min(0.5, (1 + update) / (10 + update))
    expected = rate * expected + (1 - rate) * -(update + 1.0)
    for owner in modules:
      average = modules[owner].average
      np.testing.assert_allclose(average["params"]["w"], expected, rtol=1e-5)
      assert (average["count"] == update + 1).all()
      params, _ = modules[owner].evaluated
      assert params is average["params"]


def test_one_that_was_held_has_the_learning_rate_of_the_runs_step():
  half = toy.CLOCK.total_steps // 2
  course = Course(schedule="step", milestones=(f"{half} steps",))
  modules = course.start
  for step in range(half):
    modules = course.move(modules, gradients(net1=np.nan), step=step).modules
  assert modules["net"].held.tolist() == [0, half]
  after = course.move(modules, gradients(), step=half).modules
  change = after["net"].params["w"] - modules["net"].params["w"]
  np.testing.assert_allclose(change, -0.1, rtol=1e-4)


def test_an_update_that_leaves_an_infinite_moment_is_not_made():
  """Adam's second moment overflows long before the gradient does.

  The parameter would not move again, and nobody would be told.
  """
  course = Course(name="adam", learning_rate=0.1)
  update = course.move(
    course.start, {**gradients(), "net": [[1e15, 1, 1], [1e25, 1, 1]]}
  )
  assert update.updated.tolist() == [True, False, True]
  assert moved(update.modules) == [True, False, True, True]
  moments = jax.tree.leaves(update.modules["net"].opt)
  assert all(np.isfinite(moment).all() for moment in moments)
