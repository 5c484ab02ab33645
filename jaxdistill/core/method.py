"""What a method is: a NamedTuple of pure functions, and what they are given.

A factory in `jaxdistill/methods/`, or anywhere else, is a function that is annotated
with `-> Method`; its keyword-only arguments are the keys of the config's section
`method`. The contract tests find every factory and run it with its defaults for three
short epochs. A module whose methods need longer, or have a keyword without default,
says in a constant `BRIEF`, keyword -> value, with which keywords they do in three
epochs what they do in a long run:

    BRIEF = {"independent_epochs": 1, "distillation_epochs": 1}
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from jaxdistill import losses
from jaxdistill.core.types import (
  Batch,
  Group,
  Objective,
  Outputs,
  PyTree,
  Variables,
  Views,
)

# Owner of the modules that belong to no member: see `types.MethodState`. The space
# keeps it apart from the names of groups.
SHARED = "shared modules"


def variables_of(groups: Mapping[str, Group], *, evaluated: bool = False) -> Variables:
  """Returns name -> (params, stats), in training or as they are evaluated."""
  if evaluated:
    return {name: group.evaluated for name, group in groups.items()}
  return {name: (group.params, group.stats) for name, group in groups.items()}


class GroupSpec(NamedTuple):
  """How a group is built.

  Attributes:
    name: key of the group in the config and in every dict of groups.
    model: Flax module: `apply(variables, image, train=...) -> ModelOutput`.
    size: number of members K.
    tx: their optax transformation; it sees one member at a time, and is given the
      number of the step as `step`.
    mapping: how members are run. "vmap": under `jax.vmap`, where `member_conv` runs one
      after the other. "unroll": one by one, for models with a plain convolution, which
      `vmap` turns into a grouped one; that is slow on a CPU, and carries a NaN of one
      member into the others there. "plain": under `jax.vmap` with plain convolutions,
      for accelerators whose compiler folds members itself.
    average: decay of the exponential moving average of the weights; 0 keeps none.
    schedule: their learning rate, step -> f32[], to be logged; None for unknown.
    mesh: devices that the members are spread over; None: every device has them all.
  """

  name: str
  model: Any
  size: int
  tx: optax.GradientTransformation
  mapping: str = "vmap"
  average: float = 0.0
  schedule: optax.Schedule | None = None
  mesh: Mesh | None = None

  @property
  def members(self) -> tuple[str, ...]:
    """Names of the members: `resnet32.0`, `resnet32.1`, ..."""
    return tuple(f"{self.name}.{k}" for k in range(self.size))


class Setup(NamedTuple):
  """What a method may know when it initialises its state.

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
    step: i32[] number of this step, from 0.
    epoch: i32[] epoch of this step, from 0.
    num_epochs: epochs of the whole run.
    steps_per_epoch: steps of one epoch.
    key: key of this step's "method" stream.
    forward: (variables, image f32[M, B, H, W, 3]) -> Outputs, in evaluation mode.
    forward_clean: () -> Outputs of the cohort being differentiated on the batch as it
      was before perturbation, in training mode, batch statistics not kept. Costs
      nothing in unperturbed steps.
  """

  step: jax.Array
  epoch: jax.Array
  num_epochs: int
  steps_per_epoch: int
  key: jax.Array
  forward: Callable[[Variables, jax.Array], Outputs]
  forward_clean: Callable[[], Outputs]


class Step(NamedTuple):
  """A training step as a method's loss sees it.

  Attributes:
    modules: the method's own modules, owner -> (params, stats).
    memory: the method's memory.
    outputs: forward pass of the cohort, each member on its own images; in a sequential
      update with the members before this one updated already.
    first: forward pass before any member was updated, detached; the same as `outputs`
      if all members are updated at once.
    batch: the batch.
    views: images and targets of each member.
    context: where in the run the step is, and further forward passes.
  """

  modules: Variables
  memory: PyTree
  outputs: Outputs
  first: Outputs
  batch: Batch
  views: Views
  context: Context

  @property
  def label_loss(self) -> jax.Array:
    """Every member's mean cross-entropy with the targets of what it saw: f32[M]."""
    per_example = losses.soft_cross_entropy(self.outputs.logits, self.views.target)
    return per_example.mean(axis=1)

  @property
  def labels(self) -> jax.Array:
    """The batch's labels, repeated for every member: i32[M, B]."""
    return self.outputs.repeat(self.batch.label)


class Loss(Protocol):
  """The objective of one training step."""

  def __call__(self, step: Step, /) -> Objective:
    """Returns every member's loss f32[M], and what goes with it."""
    ...


class Init(Protocol):
  """Initialises the state of a method."""

  def __call__(self, key: jax.Array, setup: Setup, /) -> tuple[Variables, PyTree]:
    """Returns (modules, memory): see `MethodState`.

    Raises:
      ConfigError: for a cohort or a run that does not suit the method.
    """
    ...


class Update(Protocol):
  """Moves a method's memory after the optimiser step."""

  def __call__(
    self, memory: PyTree, cohort: dict[str, Group], context: Context, /
  ) -> PyTree:
    """Returns the new memory."""
    ...


class Predict(Protocol):
  """Predicts what is evaluated beside the members, such as their ensemble."""

  def __call__(
    self, modules: Variables, memory: PyTree, outputs: Outputs, /
  ) -> dict[str, jax.Array]:
    """Returns name -> log-probabilities f32[B, C], up to a constant per example.

    The outputs are those of a forward pass in evaluation mode.
    """
    ...


class Recipe(Protocol):
  """Gives an optimiser of the run or of a group, with some of its keys replaced."""

  def __call__(self, **keys: Any) -> optax.GradientTransformation:
    """Returns the optimiser of one member."""
    ...


class ModulesOptimizer(Protocol):
  """Chooses the optimiser of the modules of one owner."""

  def __call__(self, owner: str, recipe: Recipe, /) -> optax.GradientTransformation:
    """Returns the optimiser.

    Args:
      owner: see `MethodState`.
      recipe: of the optimiser of the owner's group; of the run's where the owner is no
        member.
    """
    ...


class Survey(NamedTuple):
  """A pass of the cohort, in evaluation mode, over a whole split between two epochs.

  Attributes:
    split: "train" or "holdout", without augmentation, padded to whole batches.
    due: (epoch from 0) -> whether the pass is made before that epoch; a function of
      plain integers.
    start: memory -> what is collected, any pytree. It may hold arrays of the memory:
      they are not used again.
    collect: (collected, memory, outputs, batch) -> collected, for every batch;
      `batch.mask` marks the padding.
    finish: (memory, collected) -> memory.
  """

  split: str
  due: Callable[[int], bool]
  start: Callable[[PyTree], PyTree]
  collect: Callable[[PyTree, PyTree, Outputs, Batch], PyTree]
  finish: Callable[[PyTree, PyTree], PyTree]


def no_state(key: jax.Array, setup: Setup) -> tuple[Variables, PyTree]:
  """Returns ({}, {}): the state of a method that trains and remembers nothing."""
  del key, setup
  return {}, {}


def keep_memory(memory: PyTree, cohort: dict[str, Group], context: Context) -> PyTree:
  """Returns the memory as it is."""
  del cohort, context
  return memory


def mean_ensemble(
  modules: Variables, memory: PyTree, outputs: Outputs
) -> dict[str, jax.Array]:
  """Returns the mean of the finite members' probabilities, as its logarithm.

  It is {"ensemble": f32[B, C]}; NaN where no member is finite. Members may be so sure
  that a probability underflows: its logarithm does not.
  """
  del modules, memory
  alive = outputs.alive[:, None, None]
  log_probabilities = jax.nn.log_softmax(outputs.logits)
  total = jax.nn.logsumexp(log_probabilities, axis=0, b=alive)
  count = outputs.alive.sum()
  return {"ensemble": jnp.where(count > 0, total - jnp.log(count), jnp.nan)}


def owners_optimizer(owner: str, recipe: Recipe) -> optax.GradientTransformation:
  """Returns the optimiser that the owner's group has, or else the run's."""
  del owner
  return recipe()


class Method(NamedTuple):
  """How the members of a cohort learn from each other: a NamedTuple of pure functions.

  Attributes:
    loss: the objective of a step.
    init: initialises the state.
    update: moves the memory after the optimiser step.
    surveys: passes between epochs, made in this order.
    predict: predictions that are evaluated beside the members'.
    tx: chooses the optimiser of the method's own modules, owner by owner.
    exported: member names -> those that are meant to be used after training; only they
      are exported.
    min_members: the smallest cohort it is defined for.
    symmetric: whether members of one architecture have equal roles, so that renaming
      them changes nothing.
    is_control: whether members learn from the labels alone: what other methods are
      compared with.
    columns: names of its metrics, each a fraction for every member, that the closing
      table shows as the mean over the run.
  """

  loss: Loss
  init: Init = no_state
  update: Update = keep_memory
  surveys: tuple[Survey, ...] = ()
  predict: Predict = mean_ensemble
  tx: ModulesOptimizer = owners_optimizer
  exported: Callable[[Sequence[str]], Sequence[str]] = tuple
  min_members: int = 1
  symmetric: bool = True
  is_control: bool = False
  columns: tuple[str, ...] = ()
