"""What every optimiser and every schedule has to do, whatever its name."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill import optim
from jaxdistill.core import registry
from jaxdistill.core.durations import Clock
from jaxdistill.optim.chain import make_schedule

OPTIMIZERS = registry.list_available("optimizers")
SCHEDULES = registry.list_available("schedules")
CLOCK = Clock(steps_per_epoch=10, total_steps=300)
RATES = (10.0, 1.0, 0.1, 0.01)


def optimizer(name, **keys):
  common = {"schedule": "linear", "weight_decay": 0.0}
  return optim.make_optimizer({**common, "name": name, **keys}, CLOCK)


def parabola(x):
  """Steeper along one axis than along the other; the minimum is not at zero."""
  return 0.5 * (jnp.square(x[0] - 1) + 5 * jnp.square(x[1] + 2))


def descend(tx, start):
  """Runs the optimiser for the whole run; returns where it ends."""

  def take(carry, step):
    x, state = carry
    updates, state = tx.update(jax.grad(parabola)(x), state, x, step=step)
    return (optax.apply_updates(x, updates), state), None

  steps = jnp.arange(CLOCK.total_steps)
  (x, _), _ = jax.lax.scan(take, (start, tx.init(start)), steps)
  return x


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_some_rate_finds_the_minimum_of_a_parabola(name):
  start = jnp.array([3.0, 1.0])
  ends = [descend(optimizer(name, learning_rate=rate), start) for rate in RATES]
  values = np.array([parabola(end) for end in ends])
  assert np.nanmin(values) < 1e-3 * parabola(start), dict(
    zip(RATES, values, strict=True)
  )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_members_under_vmap_move_as_each_alone(name, rng):
  tx = optimizer(name, learning_rate=0.1, weight_decay=0.01)
  starts = jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)
  together = jax.vmap(lambda start: descend(tx, start))(starts)
  alone = jnp.stack([descend(tx, start) for start in starts])
  np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_type_of_the_parameters_stays(name, dtype):
  tx = optimizer(name, weight_decay=0.01)
  params = {"kernel": jnp.ones((2, 3), dtype), "bias": jnp.ones(3, dtype)}
  state = tx.init(params)
  updates, after = tx.update(params, state, params, step=0)
  moved = optax.apply_updates(params, updates)
  assert jax.tree.map(lambda x: x.dtype, moved) == jax.tree.map(
    lambda x: x.dtype, params
  )
  # The state has to be a fixed point too: it is carried through a compiled loop.
  assert jax.eval_shape(lambda: state) == jax.eval_shape(lambda: after)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_decay_without_a_gradient(name):
  tx = optimizer(name, learning_rate=0.1, weight_decay=0.1)
  params = jnp.array([2.0, -2.0])
  state = tx.init(params)
  updates, _ = tx.update(jnp.zeros(2), state, params, step=0)
  assert (jnp.sign(updates) == -jnp.sign(params)).all()


@pytest.mark.parametrize("name", SCHEDULES)
def test_rates_are_finite_not_negative_and_in_proportion_to_the_peak(name):
  steps = jnp.arange(CLOCK.total_steps + 1)

  def rates(peak):
    keys = {"schedule": name, "learning_rate": peak}
    return jax.jit(jax.vmap(make_schedule(keys, CLOCK)))(steps)

  found = rates(0.1)
  assert jnp.isfinite(found).all() and (found >= 0).all() and found.max() > 0
  np.testing.assert_allclose(rates(0.2), 2 * found, rtol=1e-5)
