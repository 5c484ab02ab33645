"""What a network predicted earlier: remembered in a table, or predicted again by remembered weights."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill.core.method import Setup
from jaxdistill.core.types import PyTree
from jaxdistill.errors import require, require_choice
from jaxdistill.methods import _tables as tables


class Past(NamedTuple):
  """Where a network's earlier predictions come from.

  Attributes:
    init: setup -> memory.
    recall: (memory, outputs, batch, views, context) -> (probabilities f32[M, B, C],
      known bool[M, B], memory).
    update: (memory, cohort, context) -> memory, after the optimiser step.
  """

  init: Callable[[Setup], PyTree]
  recall: Callable[..., tuple[jax.Array, jax.Array, PyTree]]
  update: Callable[..., PyTree]


def past_table(dtype: str, top_k: int) -> Past:
  """Remembers what every member predicted for every example when it last trained on it."""

  def init(setup):
    return tables.create(
      setup.num_examples,
      setup.num_classes,
      (len(setup.outputs.members),),
      dtype=dtype,
      top_k=top_k,
    )

  def recall(memory, outputs, batch, views, context):
    del context
    past = jnp.swapaxes(
      tables.read(memory, batch.index, outputs.logits.shape[-1]), 0, 1
    )
    # What was predicted for a mixture of images says nothing of the example; nor do the
    # zeros of a broken member.
    mixed = (jnp.arange(len(past)) == views.perturbation.member) & (
      views.perturbation.weight < 1
    )
    new = jax.nn.softmax(jax.lax.stop_gradient(outputs.logits))
    new = jnp.where((mixed | ~outputs.alive)[:, None, None], past, new)
    return (
      past,
      past.sum(axis=-1) > 0.5,
      tables.write(memory, batch.index, jnp.swapaxes(new, 0, 1), batch.mask),
    )

  return Past(init, recall, lambda memory, cohort, context: memory)


def past_weights() -> Past:
  """Remembers the members' weights of the end of the last epoch, and runs them in evaluation mode."""

  def variables(cohort):
    return {name: (group.params, group.stats) for name, group in cohort.items()}

  def recall(memory, outputs, batch, views, context):
    del batch
    past = jax.lax.stop_gradient(context.forward(memory, views.image))
    known = (context.epoch > 0) & past.alive
    return (
      jax.nn.softmax(past.logits),
      jnp.broadcast_to(known[:, None], outputs.logits.shape[:2]),
      memory,
    )

  def update(memory, cohort, context):
    ended = (context.step + 1) % context.steps_per_epoch == 0
    return jax.tree.map(
      lambda new, old: jnp.where(ended, new, old), variables(cohort), memory
    )

  return Past(lambda setup: variables(setup.cohort), recall, update)


def make_past(source: str, dtype: str, top_k: int) -> Past:
  """Builds the past that the keys of a config describe; raises ConfigError for values out of range."""
  require_choice(
    source=(source, ("table", "previous_weights")), dtype=(dtype, tables.DTYPES)
  )
  require(top_k >= 0, f"top_k must be at least 0, got {top_k}")
  return past_table(dtype, top_k) if source == "table" else past_weights()


def softened(past: Past, alpha: float, schedule: str) -> Callable:
  """Returns (memory, outputs, batch, views, context) -> (target f32[M, B, C], memory): (1 - a) y + a P_past.

  a is `alpha`, or under the "linear" schedule alpha (e + 1) / E in epoch e of E; an
  example of which nothing is known yet keeps its label.
  """

  def target(memory, outputs, batch, views, context):
    probabilities, known, memory = past.recall(memory, outputs, batch, views, context)
    share = (
      alpha * (context.epoch + 1) / context.num_epochs
      if schedule == "linear"
      else alpha
    )
    return views.target + jnp.where(
      known[..., None], share * (probabilities - views.target), 0
    ), memory

  return target
