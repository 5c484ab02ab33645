"""Optimisers and schedules against PyTorch's trajectories; durations."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill import optim
from jaxdistill.errors import ConfigError


def optimizer(**kwargs):
  settings = dict(learning_rate=0.1, schedule="constant", steps_per_epoch=1, total_steps=6, weight_decay=5e-4)
  return optim.make_optimizer(**{**settings, **kwargs})


@pytest.mark.parametrize("key, kwargs", [
    ("sgd_nesterov_wd", {}),
    ("sgd_mom_wd", {"nesterov": False}),
    ("sgd_nesterov_lrdrop_at3", {"schedule": "step", "milestones": ("3 steps",)}),
    ("sgd_nesterov_lrdrop_at3", {"schedule": "step", "milestones": ("50%",)}),
    ("adam_wd_coupled", {"name": "adam", "learning_rate": 1e-3, "weight_decay": 1e-4}),
    ("adamw", {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-2})])
def test_trajectory_is_pytorchs(golden, key, kwargs):
  g = golden("17_optim_schedules")
  tx = optimizer(**kwargs)
  params = jnp.asarray(g["w0"])
  state, path = tx.init(params), []
  for grad in g["grads"]:
    updates, state = tx.update(grad, state, params)
    params = optax.apply_updates(params, updates)
    path.append(params)
  np.testing.assert_allclose(path, g[key], rtol=1e-5, atol=1e-7)


def test_cosine_is_that_of_the_released_code(golden):
  schedule = optim.make_schedule(learning_rate=0.1, schedule="cosine", steps_per_epoch=1, total_steps=300)
  # One minus a float32 cosine close to one is exact to 6e-8 of the peak rate, hence the absolute tolerance.
  rates = [schedule(epoch) for epoch in (0, 1, 150, 299)]
  np.testing.assert_allclose(rates, golden("17_optim_schedules")["cosine_mcl"], rtol=1e-6, atol=1e-8)


def test_milestones_that_coincide_in_a_short_run_all_count():
  schedule = optim.make_schedule(learning_rate=1.0, schedule="step", milestones=("30%", "60%", "90%"),
                                 steps_per_epoch=1, total_steps=2)
  np.testing.assert_allclose([schedule(i) for i in range(3)], [1.0, 0.01, 0.001], rtol=1e-6)


def test_warmup_rises_linearly_and_ends_on_the_schedule():
  schedule = optim.make_schedule(learning_rate=0.4, schedule="constant", warmup="4 steps", steps_per_epoch=2,
                                 total_steps=10)
  np.testing.assert_allclose([schedule(i) for i in range(6)], [0, 0.1, 0.2, 0.3, 0.4, 0.4], rtol=1e-6)


def test_clipping_is_per_member_under_vmap():
  tx = optimizer(clip_norm=1.0, momentum=0.0, weight_decay=0.0, learning_rate=1.0)
  params = jnp.zeros((2, 3))
  grads = jnp.array([[30.0, 40.0, 0.0], [0.3, 0.0, 0.4]])
  updates, _ = jax.vmap(tx.update)(grads, jax.vmap(tx.init)(params), params)
  np.testing.assert_allclose(updates, [[-0.6, -0.8, 0.0], [-0.3, 0.0, -0.4]], rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_what_is_named_does_not_decay(name):
  params = {"layer1.0": {"bn1": {"scale": jnp.ones(2)}, "conv1": {"kernel": jnp.ones(2)}}, "head": {"kernel": jnp.ones(2)},
            "pos_embed": jnp.ones(2)}
  grads = jax.tree.map(jnp.zeros_like, params)
  def moved(**keys):
    tx = optimizer(name=name, weight_decay=0.1, **keys)
    updates, _ = tx.update(grads, tx.init(params), params)
    return [bool(x.any()) for x in jax.tree.leaves(updates)]  # head, bn1, conv1, pos_embed
  assert moved() == [True, True, True, True]
  assert moved(no_decay=("scale", "pos_embed", "head")) == [False, False, True, False]
  assert moved(no_decay=("layer1",)) == [True, False, False, True]
  assert {"layer1.0", "layer1", "0", "bn1", "scale", "head", "pos_embed"} <= optim.parameter_names(params)


def test_accumulated_steps_are_one_step_on_their_mean_with_the_schedule_in_steps(rng):
  grads = jnp.asarray(rng.normal(size=(6, 3)), jnp.float32)
  def run(grads, milestone, **keys):
    tx = optimizer(schedule="step", milestones=(f"{milestone} steps",), **keys)
    params, path = jnp.ones(3), []
    state = tx.init(params)
    for grad in grads:
      updates, state = tx.update(grad, state, params)
      params = optax.apply_updates(params, updates)
      path.append(params)
    return np.array(path)
  found = run(grads, 4, accumulate=2)
  np.testing.assert_array_equal(found[::2], [np.ones(3), *found[1:-1:2]])
  np.testing.assert_allclose(found[1::2], run(grads.reshape(3, 2, 3).mean(axis=1), 2), rtol=1e-6)


@pytest.mark.parametrize("text, steps", [("500 steps", 500), ("1 step", 1), (7, 7), ("2 epochs", 80), ("0.1 epochs", 4),
                                         ("30%", 300), ("0 steps", 0), ("0.001%", 1)])
def test_durations(text, steps):
  assert optim.duration("eval_every", text, steps_per_epoch=40, total_steps=1000) == steps


@pytest.mark.parametrize("text", ["soon", "-3 steps", "2 weeks", "epochs", ""])
def test_unreadable_durations_are_refused(text):
  with pytest.raises(ConfigError, match="eval_every is .*: write '500 steps', '2 epochs' or '30%'"):
    optim.duration("eval_every", text, steps_per_epoch=40, total_steps=1000)


@pytest.mark.parametrize("kwargs, key", [
    ({"learning_rate": -0.1}, "learning_rate"), ({"learning_rate": float("nan")}, "learning_rate"),
    ({"learning_rate": 0.0}, "learning_rate"), ({"weight_decay": -1.0}, "weight_decay"), ({"momentum": 1.0}, "momentum"),
    ({"name": "sdg"}, "name"), ({"schedule": "linear"}, "schedule"), ({"clip_norm": float("nan")}, "clip_norm"),
    ({"schedule": "step", "milestones": ("50%", "30%")}, "milestones"), ({"decay": 0.0}, "decay"), ({"accumulate": 0}, "accumulate")])
def test_bad_values_are_refused_by_name(kwargs, key):
  with pytest.raises(ConfigError, match=f"optimizer.{key} must"):
    optimizer(**kwargs)


@pytest.mark.parametrize("periods, limit, expected", [((390, 39, 78000), 100, 39), ((390, 390, 780), 100, 78), ((7, 5), 100, 1),
                                                      ((390, 390, 0), 1, 1), ((30, 60, 0), 20, 15)])
def test_common_period(periods, limit, expected):
  assert optim.common_period(periods, limit) == expected
