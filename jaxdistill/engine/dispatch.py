"""Several steps in one call of the device, on a data set that lives there."""

from collections.abc import Callable, Sequence
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxdistill.core import rng
from jaxdistill.core.types import Batch, Mean, TrainState, TrainStep
from jaxdistill.engine import sharding
from jaxdistill.engine.compiler import compiler_options
from jaxdistill.engine.resident import Resident

Dispatch = Callable[..., tuple[TrainState, dict[str, Mean]]]


def make_dispatch(
  train_step: TrainStep,
  mesh: Mesh,
  *,
  batch_size: int,
  steps_per_epoch: int,
  steps_per_dispatch: int,
) -> Dispatch:
  """Returns the jitted function that trains several steps on a resident data set.

  Args:
    train_step: from `make_train_step`.
    mesh: device mesh.
    batch_size: B, a multiple of the parts that a batch is split into.
    steps_per_epoch: steps of an epoch; a dispatch must not cross its end.
    steps_per_dispatch: steps run by one call. One step is run without a loop around it.

  Returns:
    (state, split, order i32[N]) -> (state, summed metrics). The state is donated.
    `order` is the epoch's permutation; the position in it follows from `state.step`.
  """

  def run_step(state: TrainState, split: Resident, order: jax.Array):
    start = (state.step % steps_per_epoch) * batch_size
    rows = jax.lax.dynamic_slice(order, (start,), (batch_size,))
    index = sharding.constrain_rows(mesh, rows)
    image, label = split.take(index)
    mask = jnp.ones((batch_size,))
    batch = Batch(image=image, label=label, index=index, mask=mask)
    return train_step(state, sharding.constrain_rows(mesh, batch))

  def run_steps(state: TrainState, split: Resident, order: jax.Array):
    if steps_per_dispatch == 1:
      return run_step(state, split, order)

    def body(state, _):
      return run_step(state, split, order)

    state, stacked = jax.lax.scan(body, state, length=steps_per_dispatch)
    return state, jax.tree.map(lambda x: x.sum(axis=0), stacked)

  def run(state: TrainState, split: Resident, order: jax.Array):
    state, metrics = run_steps(state, split, order)
    # Every process reads the metrics, and what members have missed: it needs them
    # whole.
    metrics = sharding.constrain_whole(mesh, metrics)
    return sharding.constrain_state(mesh, state), metrics

  return jax.jit(run, donate_argnums=0, compiler_options=compiler_options(mesh))


def epoch_order(key: jax.Array, epoch: int, num_examples: int) -> jax.Array:
  """Returns the order in which an epoch visits the training examples.

  It is a pure function of seed and epoch: i32[N].
  """
  epoch_key = jax.random.fold_in(rng.stream(key, "order"), epoch)
  return jax.random.permutation(epoch_key, num_examples)


def common_period(periods: Sequence[int], limit: int) -> int:
  """Returns the largest number up to `limit` that divides all `periods`.

  One dispatch may run that many steps without crossing the end of a period.
  """
  divisor = math.gcd(*periods)
  largest = min(divisor, max(limit, 1))
  return max(d for d in range(1, largest + 1) if divisor % d == 0)
