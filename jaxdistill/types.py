"""The types that everything else passes around, and the protocol of a method.

Shape alphabet, the same in every docstring of the package: `M` members of the cohort, `K` members of
a group, `B` global batch, `C` classes, `N` training examples, `H W D` feature map.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import struct
import jax
import jax.numpy as jnp
import optax

PyTree = Any


@struct.dataclass
class Batch:
  """A global batch as it comes from the data set.

  Attributes:
    image: [B, H, W, 3] uint8, or float32 in [0, 1].
    label: i32[B] class.
    index: i32[B] row of the example in the training set, stable over epochs.
    mask: f32[B] 1 for an example, 0 for padding.
  """

  image: jax.Array
  label: jax.Array
  index: jax.Array
  mask: jax.Array


@struct.dataclass
class Perturbation:
  """What the perturbed member saw instead of the clean batch.

  Attributes:
    member: i32[] the perturbed member; -1 when nobody is perturbed in this step.
    op: i32[] position of the drawn operation in the pool; -1 for none.
    permutation: i32[B] the partner mixed into each image (its own index for operations that do not mix).
    weight: f32[] share of the original image and label; 1 for operations that do not mix.
  """

  member: jax.Array
  op: jax.Array
  permutation: jax.Array
  weight: jax.Array


@struct.dataclass
class Views:
  """What each member sees of a batch in one step.

  Attributes:
    image: f32[M, B, H, W, 3] normalised input of every member.
    target: f32[M, B, C] label distribution that belongs to it: one-hot, or mixed where the image is.
    perturbation: who was perturbed, and how.
  """

  image: jax.Array
  target: jax.Array
  perturbation: Perturbation


@struct.dataclass
class ModelOutput:
  """What every network returns; `jit` drops what nobody reads.

  Attributes:
    logits: [B, C].
    features: name -> activation: "stem", "stage1", ... as [B, H, W, D] (or [B, tokens, D]) after the
      stage's last non-linearity, and "pooled" as [B, D], the classifier's input.
  """

  logits: jax.Array
  features: dict[str, jax.Array]


@struct.dataclass
class Outputs:
  """The forward pass of the whole cohort.

  Attributes:
    logits: f32[M, B, C] in member order. Rows of members that are not `alive` are zero.
    alive: bool[M] whether all logits of the member are finite; methods keep the others out of every
      contest, target and ensemble.
    groups: group name -> `ModelOutput` with a leading member axis K.
  """

  logits: jax.Array
  alive: jax.Array
  groups: dict[str, ModelOutput]


@struct.dataclass
class Group:
  """The members of one architecture, stacked: every leaf is [K, ...]."""

  params: PyTree
  stats: PyTree
  opt: PyTree


@struct.dataclass
class MethodState:
  """A method's own state: trained (`params`, `opt`) or remembered (`memory`, any pytree)."""

  params: PyTree
  opt: PyTree
  memory: PyTree


@struct.dataclass
class TrainState:
  """All state of a run, one pytree: what a checkpoint holds.

  Attributes:
    step: i32[] optimiser steps done. It is the only position in the data and in the random streams.
    key: the run's PRNG key. Constant: streams are folded from it, it is never split and carried.
    cohort: group name -> `Group`.
    method: the method's state.
  """

  step: jax.Array
  key: jax.Array
  cohort: dict[str, Group]
  method: MethodState


@struct.dataclass
class Table:
  """Per-example memory of a method: rows [N, ...]; the type tells placement to shard it over N."""

  rows: jax.Array


@struct.dataclass
class Objective:
  """What a method asks the step to minimise.

  Attributes:
    member: f32[M] loss of each member. `member[i]` depends on another member's output only through
      `stop_gradient`, unless the method says otherwise.
    shared: f32[] loss of the method's own parameters.
    metrics: name -> [] or [M] values to log; entries that are not finite are left out of their mean.
    memory: the method's new memory (not differentiated).
  """

  member: jax.Array
  shared: jax.Array
  metrics: dict[str, jax.Array]
  memory: PyTree


@struct.dataclass
class Mean:
  """A mean in the making: merged by addition, so that a masked remainder stays exact."""

  total: jax.Array
  count: jax.Array

  @classmethod
  def of(cls, values: jax.Array, weights: jax.Array | None = None, axis=None) -> "Mean":
    """Sums `values` times `weights` over `axis`; values of weight zero do not count, even if not finite."""
    values = jnp.asarray(values, jnp.float32)
    weights = jnp.ones_like(values) if weights is None else jnp.broadcast_to(weights, values.shape)
    weights = weights.astype(jnp.float32)
    return cls(jnp.sum(jnp.where(weights > 0, values, 0) * weights, axis), jnp.sum(weights, axis))

  def __add__(self, other: "Mean") -> "Mean":
    return Mean(self.total + other.total, self.count + other.count)

  def value(self):
    """Returns total / count, NaN where nothing was counted."""
    return jnp.where(self.count > 0, self.total / jnp.maximum(self.count, 1e-9), jnp.nan)


class GroupSpec(NamedTuple):
  """How a group is built.

  Attributes:
    name: key of the group in the config and in every dict of groups.
    model: Flax module: `apply(variables, image, train=...) -> ModelOutput`.
    size: number of members K.
    tx: their optax transformation; it sees one member at a time.
    unroll: run members one by one instead of under `vmap`: for models with a plain convolution, which `vmap`
      turns into a grouped one. That is slow, and on a CPU it carries a NaN of one member into the others.
  """

  name: str
  model: Any
  size: int
  tx: optax.GradientTransformation
  unroll: bool = False

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
    outputs: `Outputs` of `jax.ShapeDtypeStruct` for a batch of two.
    cohort: the initial cohort.
  """

  specs: tuple[GroupSpec, ...]
  num_classes: int
  num_examples: int
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


class Method(NamedTuple):
  """How the members of a cohort learn from each other: a NamedTuple of pure functions.

  Attributes:
    loss: (params, memory, outputs, batch, views, context) -> Objective.
    init: (key, setup) -> (params, memory).
    update: (memory, cohort, context) -> memory, after the optimiser step.
    predict: (params, memory, outputs) -> name -> probabilities f32[B, C], evaluated beside the members.
    tx: optimiser of the method's own parameters; None takes the recipe of the members.
    min_members: the smallest cohort it is defined for.
  """

  loss: Callable[..., Objective]
  init: Callable[..., tuple[PyTree, PyTree]] = _no_state
  update: Callable[..., PyTree] = _keep_memory
  predict: Callable[..., dict[str, jax.Array]] = mean_ensemble
  tx: optax.GradientTransformation | None = None
  min_members: int = 1
