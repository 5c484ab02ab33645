"""What a method is: a NamedTuple of pure functions, and what they are given."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdistill.types import Batch, Group, Objective, Outputs, PyTree


class GroupSpec(NamedTuple):
  """How a group is built.

  Attributes:
    name: key of the group in the config and in every dict of groups.
    model: Flax module: `apply(variables, image, train=...) -> ModelOutput`.
    size: number of members K.
    tx: their optax transformation; it sees one member at a time.
    unroll: run members one by one instead of under `vmap`: for models with a plain convolution, which `vmap`
      turns into a grouped one. That is slow, and on a CPU it carries a NaN of one member into the others.
    average: decay of the exponential moving average of the weights; 0 keeps none.
  """

  name: str
  model: Any
  size: int
  tx: optax.GradientTransformation
  unroll: bool = False
  average: float = 0.0

  @property
  def members(self) -> tuple[str, ...]:
    """Names of the members: `resnet32.0`, `resnet32.1`, ..."""
    return tuple(f"{self.name}.{k}" for k in range(self.size))


class Setup(NamedTuple):
  """What a method may know when it builds its state.

  Attributes:
    specs: the groups, in member order.
    num_classes: C.
    num_examples: N.
    steps_per_epoch: steps of one epoch.
    total_steps: steps of the run.
    outputs: `Outputs` of `jax.ShapeDtypeStruct` for a batch of two.
    cohort: the initial cohort.
  """

  specs: tuple[GroupSpec, ...]
  num_classes: int
  num_examples: int
  steps_per_epoch: int
  total_steps: int
  outputs: Outputs
  cohort: dict[str, Group]


class Context(NamedTuple):
  """Where in the run a step is, and what else it may compute.

  Attributes:
    step: i32[] of this step, from 0.
    epoch: i32[] of this step, from 0.
    num_epochs: epochs of the whole run.
    steps_per_epoch: steps of one epoch.
    key: key of this step's "method" stream.
    forward: (name -> (params, stats), image f32[M, B, H, W, 3]) -> Outputs, in evaluation mode.
    forward_clean: () -> Outputs of the cohort being differentiated on the batch as it was before
      perturbation, in training mode, batch statistics not kept. Costs nothing in unperturbed steps.
  """

  step: jax.Array
  epoch: jax.Array
  num_epochs: int
  steps_per_epoch: int
  key: jax.Array
  forward: Callable[..., Outputs]
  forward_clean: Callable[[], Outputs]


class Survey(NamedTuple):
  """A pass of the cohort, in evaluation mode, over a whole split between two epochs.

  Attributes:
    split: "train" or "holdout", without augmentation, padded to whole batches.
    due: (epoch from 0) -> whether the pass is made before that epoch; a function of plain integers.
    start: memory -> what is collected, any pytree. It may hold arrays of the memory: they are not used again.
    collect: (collected, memory, outputs, batch) -> collected, for every batch; `batch.mask` marks the padding.
    finish: (memory, collected) -> memory.
  """

  split: str
  due: Callable[[int], bool]
  start: Callable[[PyTree], PyTree]
  collect: Callable[[PyTree, PyTree, Outputs, Batch], PyTree]
  finish: Callable[[PyTree, PyTree], PyTree]


def _no_state(key, setup):
  del key, setup
  return {}, {}


def _keep_memory(memory, cohort, context):
  del cohort, context
  return memory


def mean_ensemble(params, memory, outputs: Outputs) -> dict[str, jax.Array]:
  """Averages the probabilities of all members that are alive: {"ensemble": f32[B, C]}."""
  del params, memory
  alive = outputs.alive[:, None, None]
  total = jnp.sum(jnp.where(alive, jax.nn.softmax(outputs.logits), 0), axis=0)
  return {"ensemble": total / jnp.maximum(jnp.sum(outputs.alive), 1)}


def _members_recipe(recipe):
  return recipe()


class Method(NamedTuple):
  """How the members of a cohort learn from each other: a NamedTuple of pure functions.

  Attributes:
    loss: (params, memory, outputs, batch, views, context) -> Objective.
    init: (key, setup) -> (params, memory). Raises ConfigError for a cohort or a run that does not suit.
    update: (memory, cohort, context) -> memory, after the optimiser step.
    surveys: passes between epochs, made in this order.
    predict: (params, memory, outputs) -> name -> probabilities f32[B, C], evaluated beside the members.
    tx: recipe -> optimiser of the method's own parameters; `recipe(**keys)` builds the members' optimiser with
      some of its keys (see `optim.make_optimizer`) replaced.
    deployed: member names -> those that are meant to be used after training; only they are exported.
    min_members: the smallest cohort it is defined for.
    symmetric: whether members of one architecture have equal roles, so that renaming them changes nothing.
  """

  loss: Callable[..., Objective]
  init: Callable[..., tuple[PyTree, PyTree]] = _no_state
  update: Callable[..., PyTree] = _keep_memory
  surveys: tuple[Survey, ...] = ()
  predict: Callable[..., dict[str, jax.Array]] = mean_ensemble
  tx: Callable[[Callable[..., optax.GradientTransformation]], optax.GradientTransformation] = _members_recipe
  deployed: Callable[[Sequence[str]], Sequence[str]] = tuple
  min_members: int = 1
  symmetric: bool = True
