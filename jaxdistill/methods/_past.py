"""What a network predicted earlier, and labels that are softened by it."""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxdistill.core.method import (
  Context,
  Setup,
  Step,
  Update,
  Variables,
  keep_memory,
  variables_of,
)
from jaxdistill.core.types import Group, PyTree
from jaxdistill.errors import require, require_choice
from jaxdistill.methods import _tables


class Recalled(NamedTuple):
  """What is recalled in a step.

  Attributes:
    probabilities: f32[M, B, C] earlier predictions; mixed where the images are.
    known: bool[M, B] whether there is one.
    memory: the new memory.
  """

  probabilities: jax.Array
  known: jax.Array
  memory: PyTree


class Recall(Protocol):
  """Recalls earlier predictions for a step's examples."""

  def __call__(self, memory: PyTree, step: Step, /) -> Recalled:
    """Returns them with the new memory; `memory` is that of the past alone."""
    ...


class Past(NamedTuple):
  """Where a network's earlier predictions come from.

  Attributes:
    init: setup -> memory.
    recall: gives the predictions for a step's examples.
    update: moves the memory after the optimiser step.
  """

  init: Callable[[Setup], PyTree]
  recall: Recall
  update: Update


def make_past(*, source: str, dtype: str, top_k: int) -> Past:
  """Returns the past that the keys of a config describe.

  Args:
    source: "table" or "previous_weights".
    dtype: of the table.
    top_k: classes that the table keeps, 0 for all.

  Raises:
    ConfigError: for values out of range.
  """
  require_choice(
    source=(source, ("table", "previous_weights")), dtype=(dtype, _tables.DTYPES)
  )
  require(top_k >= 0, f"top_k must be at least 0, got {top_k}")
  if source == "table":
    return _past_table(dtype, top_k)
  return _past_weights()


def _past_table(dtype: str, top_k: int) -> Past:
  """Remembers what each member predicted for an example when it last trained on it."""

  def init(setup: Setup) -> PyTree:
    num_members = len(setup.outputs.members)
    return _tables.create(
      setup.num_examples,
      setup.num_classes,
      (num_members,),
      dtype=dtype,
      top_k=top_k,
    )

  def recall(memory: PyTree, step: Step) -> Recalled:
    logits = step.first.logits
    rows = _tables.read(memory, step.batch.index, logits.shape[-1])
    past = jnp.swapaxes(rows, 0, 1)
    recalled = step.views.as_seen(past)

    # A mixture has a past if all of its examples have one.
    known = step.views.holds_as_seen(past.sum(axis=-1) > 0.5)

    # What was predicted for a mixture of images says nothing about the example; nor do
    # the zeros that stand for a diverged member's logits.
    unfit = step.views.is_mixed | ~step.first.alive
    predicted = jax.nn.softmax(logits)
    kept = jnp.where(unfit[:, None, None], past, predicted)
    new_rows = jnp.swapaxes(kept, 0, 1)
    new_memory = _tables.write(memory, step.batch.index, new_rows, step.batch.mask)
    return Recalled(probabilities=recalled, known=known, memory=new_memory)

  return Past(init=init, recall=recall, update=keep_memory)


def _past_weights() -> Past:
  """Remembers the weights of the last epoch's end, and runs them in evaluation mode."""

  def init(setup: Setup) -> PyTree:
    return variables_of(setup.cohort)

  def recall(memory: PyTree, step: Step) -> Recalled:
    context = step.context
    past = jax.lax.stop_gradient(context.forward(memory, step.views.image))
    known = (context.epoch > 0) & past.alive
    return Recalled(
      probabilities=jax.nn.softmax(past.logits),
      known=jnp.broadcast_to(known[:, None], step.outputs.logits.shape[:2]),
      memory=memory,
    )

  def update(memory: PyTree, cohort: dict[str, Group], context: Context) -> PyTree:
    epoch_ends = (context.step + 1) % context.steps_per_epoch == 0
    return keep_weights(epoch_ends, cohort, memory)

  return Past(init=init, recall=recall, update=update)


def keep_weights(
  now: jax.Array, cohort: dict[str, Group], kept: Variables
) -> Variables:
  """Returns the cohort's weights if bool[] `now`, and those kept before otherwise."""

  def choose(new: jax.Array, old: jax.Array) -> jax.Array:
    return jnp.where(now, new, old)

  return jax.tree.map(choose, variables_of(cohort), kept)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Softening:
  """How labels are softened by past predictions.

  Attributes:
    past: where they come from.
    alpha: their weight at the end of the run.
    schedule: "linear", alpha (e + 1) / E in epoch e of E, or "constant".
  """

  past: Past
  alpha: float
  schedule: str

  def weight(self, context: Context) -> jax.Array | float:
    """Returns the weight of the past in this step."""
    if self.schedule == "constant":
      return self.alpha
    return self.alpha * (context.epoch + 1) / context.num_epochs

  def soften(self, memory: PyTree, step: Step) -> tuple[jax.Array, PyTree]:
    """Softens the targets of a step; an example without a past keeps its own.

    Args:
      memory: of the past.
      step: the step.

    Returns:
      ((1 - a) y + a P_past, f32[M, B, C], and the new memory).
    """
    recalled = self.past.recall(memory, step)
    labels = step.views.target
    change = self.weight(step.context) * (recalled.probabilities - labels)
    target = labels + jnp.where(recalled.known[..., None], change, 0)
    return target, recalled.memory
