"""A member's optimiser: PyTorch's trajectories, clipping, decay, accumulation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill import optim
from jaxdistill.core.durations import Clock
from jaxdistill.errors import ConfigError
from jaxdistill.optim.chain import make_schedule

LAB = "tests.helpers.my_lab"


def optimizer(**keys):
  common = {"learning_rate": 0.1, "schedule": "constant", "weight_decay": 5e-4}
  return optim.make_optimizer({**common, **keys}, Clock(1, 6))


def run(tx, grads, params):
  """Parameters after each of the gradients."""
  state = tx.init(params)
  path = []
  for step, grad in enumerate(grads):
    updates, state = tx.update(grad, state, params, step=jnp.int32(step))
    params = optax.apply_updates(params, updates)
    path.append(params)
  return np.array(path)


@pytest.mark.parametrize(
  "key, keys",
  [
    ("sgd_nesterov_wd", {}),
    ("sgd_mom_wd", {"nesterov": False}),
    ("sgd_nesterov_lrdrop_at3", {"schedule": "step", "milestones": ("3 steps",)}),
    ("sgd_nesterov_lrdrop_at3", {"schedule": "step", "milestones": ("50%",)}),
    (
      "adam_wd_coupled",
      {"name": "adam", "learning_rate": 1e-3, "weight_decay": 1e-4},
    ),
    ("adamw", {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-2}),
  ],
)
def test_trajectory_is_pytorchs(golden, key, keys):
  numbers = golden("17_optim_schedules")
  path = run(optimizer(**keys), numbers["grads"], jnp.asarray(numbers["w0"]))
  np.testing.assert_allclose(path, numbers[key], rtol=1e-5, atol=1e-7)


def test_cosine_is_that_of_the_released_code(golden):
  keys = {"learning_rate": 0.1, "schedule": "cosine"}
  schedule = make_schedule(keys, Clock(1, 300))
  rates = [schedule(epoch) for epoch in (0, 1, 150, 299)]
  expected = golden("17_optim_schedules")["cosine_mcl"]
  # One minus a float32 cosine close to one is exact to 6e-8 of the peak rate, hence the
  # absolute tolerance.
  np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-8)


def test_milestones_that_coincide_in_a_short_run_all_count():
  keys = {
    "learning_rate": 1.0,
    "schedule": "step",
    "milestones": ("30%", "60%", "90%"),
  }
  schedule = make_schedule(keys, Clock(1, 2))
  rates = [schedule(step) for step in range(3)]
  np.testing.assert_allclose(rates, [1.0, 0.01, 0.001], rtol=1e-6)


def test_warmup_rises_linearly_and_ends_on_the_schedule():
  keys = {"learning_rate": 0.4, "schedule": "constant", "warmup": "4 steps"}
  schedule = make_schedule(keys, Clock(2, 10))
  rates = [schedule(step) for step in range(6)]
  np.testing.assert_allclose(rates, [0, 0.1, 0.2, 0.3, 0.4, 0.4], rtol=1e-6)


def test_clipping_is_per_member_under_vmap():
  tx = optimizer(clip_norm=1.0, momentum=0.0, weight_decay=0.0, learning_rate=1.0)
  params = jnp.zeros((2, 3))
  grads = jnp.array([[30.0, 40.0, 0.0], [0.3, 0.0, 0.4]])

  def update(grads, params):
    return tx.update(grads, tx.init(params), params, step=0)

  updates, _ = jax.vmap(update)(grads, params)
  expected = [[-0.6, -0.8, 0.0], [-0.3, 0.0, -0.4]]
  np.testing.assert_allclose(updates, expected, rtol=1e-6)


PARAMS = {
  "layer1.0": {"bn1": {"scale": jnp.ones(2)}, "conv1": {"kernel": jnp.ones(2)}},
  "head": {"kernel": jnp.ones(2)},
  "pos_embed": jnp.ones(2),
}


@pytest.mark.parametrize(
  "no_decay, decaying",
  [
    ((), ["head", "bn1", "conv1", "pos_embed"]),
    (("scale", "pos_embed", "head"), ["conv1"]),
    (("layer1",), ["head", "pos_embed"]),
  ],
)
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_what_is_named_does_not_decay(name, no_decay, decaying):
  tx = optimizer(name=name, weight_decay=0.1, no_decay=no_decay)
  zeros = jax.tree.map(jnp.zeros_like, PARAMS)
  updates, _ = tx.update(zeros, tx.init(PARAMS), PARAMS, step=0)
  moved = [bool(update.any()) for update in jax.tree.leaves(updates)]
  leaves = ["head", "bn1", "conv1", "pos_embed"]
  assert moved == [leaf in decaying for leaf in leaves]


def test_parameters_have_the_names_of_their_modules_and_the_parts_of_these():
  expected = {"layer1.0", "layer1", "0", "bn1", "scale", "head", "pos_embed"}
  assert expected <= optim.parameter_names(PARAMS)


def test_accumulated_steps_are_one_step_on_their_mean_with_the_schedule_in_steps(rng):
  grads = jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)
  ones = jnp.ones(3)
  step = {"schedule": "step"}
  found = run(optimizer(**step, milestones=("4 steps",), accumulate=2), grads, ones)
  np.testing.assert_array_equal(found[::2], [ones, *found[1:-1:2]])
  means = grads.reshape(3, 2, 3).mean(axis=1)
  expected = run(optimizer(**step, milestones=("2 steps",)), means, ones)
  np.testing.assert_allclose(found[1::2], expected, rtol=1e-6)


@pytest.mark.parametrize(
  "keys, message",
  [
    ({"learning_rate": -0.1}, "learning_rate must"),
    ({"learning_rate": float("nan")}, "learning_rate must"),
    ({"learning_rate": 0.0}, "learning_rate must"),
    ({"weight_decay": -1.0}, "weight_decay must"),
    ({"momentum": 1.0}, "momentum must"),
    ({"clip_norm": float("nan")}, "clip_norm must"),
    ({"accumulate": 0}, "accumulate must"),
    ({"warmup": "soon"}, "warmup is 'soon': write '500 steps'"),
    ({"schedule": "step", "milestones": ("50%", "30%")}, "milestones must"),
    ({"schedule": "step", "milestones": ("later",)}, "milestones is 'later'"),
    ({"schedule": "step", "decay": 0.0}, "decay must"),
    ({"schedule": "exponential", "every": "0 steps"}, "every must"),
    ({"schedule": "cosine", "final": 2.0}, "final must"),
    ({"name": "adamw", "b1": 1.0}, "b1 must"),
    ({"name": "adamw", "eps": 0.0}, "eps must"),
    ({"name": "sdg"}, "name: there is no optimiser 'sdg'; did you mean 'sgd'?"),
    ({"schedule": "cosin"}, "schedule: there is no schedule 'cosin'; did you mean"),
    ({"name": f"{LAB}:returns_pi"}, "name: optimiser .* returned float: it must"),
    ({"schedule": f"{LAB}:returns_pi"}, "schedule: schedule .* returned float"),
    ({"name": f"{LAB}:network"}, "name: .*network needs"),
    ({"schedule": f"{LAB}:signs"}, "schedule: .* too many positional arguments"),
  ],
)
def test_what_is_wrong_is_refused_by_its_key(keys, message):
  with pytest.raises(ConfigError, match=f"^optimizer.{message}"):
    optimizer(**keys)


def test_an_optimiser_and_a_schedule_of_ones_own():
  keys = {
    "name": f"{LAB}:signs",
    "slowness": 4.0,
    "schedule": f"{LAB}:bumps",
    "number": 3,
    "weight_decay": 0.0,
  }
  # The schedule falls from its peak to half of it, three times in six steps.
  path = run(optimizer(**keys), jnp.ones((6, 1)), jnp.zeros(1))
  steps = np.diff(path[:, 0], prepend=0.0)
  np.testing.assert_allclose(steps, -0.1 / 4 * np.array([1, 0.5] * 3), rtol=1e-5)
