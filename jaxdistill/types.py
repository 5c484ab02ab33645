"""The types that everything else passes around.

Shape alphabet, the same in every docstring of the package: `M` members of the cohort, `K` members of
a group, `B` global batch, `C` classes, `N` training examples, `H W D` feature map.
"""

from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

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
    target: f32[M, B, C] label distribution that belongs to it: one-hot, or mixed where the image is; smoothed.
    perturbation: who was perturbed, and how.
    smoothing: share of every target that is spread evenly over the classes.
  """

  image: jax.Array
  target: jax.Array
  perturbation: Perturbation
  smoothing: float = struct.field(pytree_node=False, default=0.0)

  @property
  def label(self) -> jax.Array:
    """The targets without smoothing, f32[M, B, C]: what members are compared and measured on."""
    if not self.smoothing:
      return self.target
    return (self.target - self.smoothing / self.target.shape[-1]) / (1 - self.smoothing)


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

  @property
  def members(self) -> tuple[str, ...]:
    """Names of all members, in member order."""
    return tuple(f"{name}.{k}" for name, output in self.groups.items() for k in range(output.logits.shape[0]))

  def features(self, feature: str) -> dict[str, jax.Array]:
    """Returns member name -> its feature [B, ...]; the sizes of members of different groups may differ."""
    rows = (row for output in self.groups.values() for row in output.features[feature])
    return dict(zip(self.members, rows))


@struct.dataclass
class Group:
  """The members of one architecture, stacked: every leaf is [K, ...].

  Attributes:
    params: what is trained.
    stats: all other collections, such as batch statistics.
    opt: state of the optimisers.
    average: {} or, if weights are averaged over the steps, {"params", "stats", "count"}.
  """

  params: PyTree
  stats: PyTree
  opt: PyTree
  average: PyTree = struct.field(default_factory=dict)

  @property
  def deployed(self) -> tuple[PyTree, PyTree]:
    """(params, stats) that are evaluated and kept: the averaged ones where there are any."""
    return (self.average["params"], self.average["stats"]) if self.average else (self.params, self.stats)


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
