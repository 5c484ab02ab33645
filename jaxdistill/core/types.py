"""The types that everything else passes around.

Shape alphabet, the same in every docstring of the package: `M` members of the cohort,
`K` members of a group, `B` global batch, `C` classes, `N` training examples, `H W D`
feature map.
"""

from collections.abc import Callable
import re
from typing import Any, NamedTuple, Protocol

from flax import struct
import jax
import jax.numpy as jnp

from jaxdistill import losses

PyTree = Any

Variables = dict[str, tuple[PyTree, PyTree]]
"""Group name, or owner of a method's modules -> (params, stats)."""
# Stands in `Group.held` for a member that takes no part any more. It is never updated,
# so that counting goes on from here.
QUARANTINED = 2**30


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


class Perturbed(NamedTuple):
  """What a perturbation makes of a batch.

  Attributes:
    image: f32[B, H, W, 3].
    permutation: i32[B] the partner mixed into each image; its own index where nothing
      is mixed.
    weight: f32[] weight of the original image; 1 where nothing is mixed.
  """

  image: jax.Array
  permutation: jax.Array
  weight: jax.Array


class Op(Protocol):
  """A perturbation: (key, image f32[B, H, W, 3]) -> Perturbed.

  Images are in [0, 1] and stay there.
  """

  def __call__(self, key: jax.Array, image: jax.Array, /) -> Perturbed:
    """Perturbs a batch of images; every draw comes from the key."""
    ...


@struct.dataclass
class Mixture:
  """How the images of a batch were mixed with one another.

  Attributes:
    permutation: i32[B] the partner mixed into each image (its own index where nothing
      was mixed).
    weight: f32[] weight of the original image; 1 where nothing was mixed.
    label_weight: f32[] weight of the original label: that of the image, or 1 if labels
      stay as they are.
  """

  permutation: jax.Array
  weight: jax.Array
  label_weight: jax.Array

  @property
  def mixes(self) -> jax.Array:
    """Whether images were mixed: bool[]."""
    return self.weight < 1

  def mix(self, values: jax.Array, axis: int = 0) -> jax.Array:
    """Mixes what belongs to the images as they were mixed: w * own + (1 - w) * other.

    Args:
      values: an array with the batch along `axis`, such as predictions [B, C].
      axis: the batch axis.

    Returns:
      An array of the same shape; `values` themselves where nothing was mixed.
    """
    partner = jnp.take(values, self.permutation, axis=axis)
    return self.weight * values + (1 - self.weight) * partner

  def partners(self, label: jax.Array) -> jax.Array:
    """Returns the class of each image's partner, of its own where labels stay.

    Args:
      label: i32[B] class.
    """

    def of_partners() -> jax.Array:
      return jnp.take(label, self.permutation)

    # Partners may be on other devices: only their classes cross, and only if they are
    # wanted.
    return jax.lax.cond(self.label_weight < 1, of_partners, lambda: label)

  def mix_labels(self, label: jax.Array, num_classes: int) -> jax.Array:
    """Returns label distributions, mixed where labels are mixed as images are.

    Args:
      label: i32[B] class.
      num_classes: C.

    Returns:
      f32[B, C]; one-hot where nothing was mixed.
    """
    own = jax.nn.one_hot(label, num_classes)
    other = jax.nn.one_hot(self.partners(label), num_classes)
    return self.label_weight * own + (1 - self.label_weight) * other

  def larger_part(self, label: jax.Array) -> jax.Array:
    """Returns the class that most of each image shows: i32[B].

    Args:
      label: i32[B] class.
    """
    return jnp.where(self.label_weight < 0.5, self.partners(label), label)


@struct.dataclass
class Perturbation(Mixture):
  """Who saw something else than the clean batch in a step, and what.

  It is a mixture of the images that this member would have seen.

  Attributes:
    member: i32[] the perturbed member; -1 if no member is perturbed in this step.
    op: i32[] position of the drawn operation in the pool; -1 for none.
  """

  member: jax.Array
  op: jax.Array

  @classmethod
  def none(cls, batch_size: int) -> "Perturbation":
    """Returns what is recorded of a step in which no member is perturbed."""
    return cls(
      member=jnp.int32(-1),
      op=jnp.int32(-1),
      permutation=jnp.arange(batch_size, dtype=jnp.int32),
      weight=jnp.float32(1),
      label_weight=jnp.float32(1),
    )

  def is_perturbed(self, num_members: int) -> jax.Array:
    """Returns bool[M]: which member, if any, is perturbed in this step."""
    return jnp.arange(num_members) == self.member

  def mix_mixed_labels(
    self, mixture: Mixture, label: jax.Array, num_classes: int
  ) -> jax.Array:
    """Returns the label distributions of images that had been mixed before.

    Args:
      mixture: of all members' images.
      label: i32[B] class.
      num_classes: C.

    Returns:
      f32[B, C].
    """

    def blend(first: jax.Array, second: jax.Array) -> jax.Array:
      own = jax.nn.one_hot(first, num_classes)
      other = jax.nn.one_hot(second, num_classes)
      return mixture.label_weight * own + (1 - mixture.label_weight) * other

    # Of the image's two classes, and of its partner's two: as classes, they are less to
    # send than distributions.
    second = mixture.partners(label)
    own = blend(label, second)
    other = blend(self.partners(label), self.partners(second))
    return self.label_weight * own + (1 - self.label_weight) * other


@struct.dataclass
class Views:
  """What each member sees of a batch in one step.

  The images of all members may be mixed; then those of one of them are perturbed, which
  may mix them once more.

  Attributes:
    image: f32[M, B, H, W, 3] normalised input of every member.
    target: f32[M, B, C] label distribution that belongs to it: one-hot, or mixed where
      the image is, unless labels stay as they are; smoothed.
    perturbation: which member was perturbed, and how.
    mixture: how the images of all members were mixed before; None where the run mixes
      none.
    smoothing: probability that is spread evenly over the classes in every target.
  """

  image: jax.Array
  target: jax.Array
  perturbation: Perturbation
  mixture: Mixture | None = None
  smoothing: float = struct.field(pytree_node=False, default=0.0)

  @property
  def is_perturbed(self) -> jax.Array:
    """Which member saw perturbed images: bool[M]."""
    return self.perturbation.is_perturbed(self.target.shape[0])

  @property
  def is_mixed_apart(self) -> jax.Array:
    """Which member saw images mixed by its perturbation, as no other did: bool[M]."""
    return self.is_perturbed & self.perturbation.mixes

  @property
  def is_mixed(self) -> jax.Array:
    """Which member saw mixed images, alone or with all others: bool[M]."""
    if self.mixture is None:
      return self.is_mixed_apart
    return self.is_mixed_apart | self.mixture.mixes

  def as_seen(self, values: jax.Array) -> jax.Array:
    """Returns what belongs to the images of each member, mixed where they were.

    Args:
      values: [M, B, C], or [1, B, C] for all members: what belongs to the images of the
        batch, such as earlier predictions for them.

    Returns:
      [M, B, C]; the values themselves for members whose images were not mixed.
    """
    if self.mixture is not None:
      values = self.mixture.mix(values, axis=1)
    return self.as_perturbed(values)

  def as_perturbed(self, values: jax.Array) -> jax.Array:
    """Returns what belongs to the images of each member, from what belongs to others'.

    Args:
      values: [M, B, C], or [1, B, C] for all members: what belongs to the images that
        unperturbed members see, such as predictions for them.

    Returns:
      [M, B, C]; the values themselves but for a member whose perturbation mixed them.
    """
    mixture = self.perturbation.mix(values, axis=1)
    return jnp.where(self.is_mixed_apart[:, None, None], mixture, values)

  def holds_as_seen(self, holds: jax.Array) -> jax.Array:
    """Returns whether something holds for all images that an image was made of.

    Args:
      holds: bool[M, B] whether it holds for the images of the batch.

    Returns:
      bool[M, B].
    """
    if self.mixture is not None:
      # An image that was not mixed is its own partner.
      holds &= holds[:, self.mixture.permutation]
    partner_holds = holds[:, self.perturbation.permutation]
    return holds & (partner_holds | ~self.is_mixed_apart[:, None])

  def larger_part(self, label: jax.Array) -> jax.Array:
    """Returns the class that most of each image shows to unperturbed members.

    Args:
      label: i32[B] class.

    Returns:
      i32[B].
    """
    if self.mixture is None:
      return label
    return self.mixture.larger_part(label)

  @property
  def label(self) -> jax.Array:
    """The targets without smoothing, on which members are measured: f32[M, B, C]."""
    if not self.smoothing:
      return self.target
    num_classes = self.target.shape[-1]
    return (self.target - self.smoothing / num_classes) / (1 - self.smoothing)


@struct.dataclass
class ModelOutput:
  """What every network returns; `jit` drops what is not read.

  Attributes:
    logits: [B, C].
    features: name -> activation: "stem", "stage1", ... as [B, H, W, D] (or [B, tokens,
      D]) after the stage's last non-linearity, and "pooled" as [B, D], the classifier's
      input.
  """

  logits: jax.Array
  features: dict[str, jax.Array]

  @property
  def stages(self) -> tuple[str, ...]:
    """Names of the features "stage1", "stage2", ..., from shallow to deep."""
    numbered = [name for name in self.features if re.fullmatch(r"stage\d+", name)]
    return tuple(sorted(numbered, key=lambda name: int(name.removeprefix("stage"))))


@struct.dataclass
class Outputs:
  """The forward pass of the whole cohort.

  Attributes:
    logits: f32[M, B, C] in member order. Rows of members that are not `alive` are zero.
    alive: bool[M] whether the member's weights are finite and its logits are, and not
      beyond `losses.LARGEST`, and it is not quarantined; methods keep the others out of
      every contest, target and ensemble.
    groups: group name -> `ModelOutput` with a leading member axis K.
  """

  logits: jax.Array
  alive: jax.Array
  groups: dict[str, ModelOutput]

  @property
  def members(self) -> tuple[str, ...]:
    """Names of all members, in member order."""
    return tuple(
      f"{name}.{k}"
      for name, output in self.groups.items()
      for k in range(output.logits.shape[0])
    )

  @property
  def peers(self) -> jax.Array:
    """Who is whose peer, bool[M, M]: two different members, both of them finite."""
    others = ~jnp.eye(self.alive.size, dtype=bool)
    return self.alive[:, None] & self.alive[None, :] & others

  def repeat(self, label: jax.Array) -> jax.Array:
    """Repeats labels i32[B] for every member: i32[M, B]."""
    return jnp.broadcast_to(label[None], self.logits.shape[:2])

  def features(self, feature: str) -> dict[str, jax.Array]:
    """Returns member name -> its feature [B, ...]; sizes may differ between groups."""
    rows = (row for output in self.groups.values() for row in output.features[feature])
    return dict(zip(self.members, rows, strict=True))

  def within_range(
    self, feature: str, largest: float = losses.LARGEST
  ) -> tuple["Outputs", jax.Array]:
    """Replaces a feature that no distance may be taken to by zeros.

    Logits may be finite where a feature is not, or is too large to be squared.

    Args:
      feature: its name.
      largest: magnitude up to which distances to it can be computed.

    Returns:
      (outputs with the feature in float32, bool[M] whose is what it was).
    """
    groups = {}
    fits = []
    for name, output in self.groups.items():
      values = output.features[feature].astype(jnp.float32)
      fit = (jnp.abs(values) <= largest).all(axis=tuple(range(1, values.ndim)))
      fits.append(fit)
      mask = fit.reshape((-1,) + (1,) * (values.ndim - 1))
      kept = jnp.where(mask, values, 0)
      features = {**output.features, feature: kept}
      groups[name] = ModelOutput(logits=output.logits, features=features)
    return Outputs(self.logits, self.alive, groups), jnp.concatenate(fits)


@struct.dataclass
class Group:
  """The members of one architecture, stacked: every leaf is [K, ...].

  Attributes:
    params: what is trained.
    stats: all other collections, such as batch statistics.
    opt: state of the optimisers.
    held: i32[K] updates in a row that were not made, because they were not finite; from
      `QUARANTINED` on the member takes no part in anything.
    average: {} or, if weights are averaged over the updates, {"params", "stats",
      "count"}.
  """

  params: PyTree
  stats: PyTree
  opt: PyTree
  held: jax.Array
  average: PyTree = struct.field(default_factory=dict)

  @property
  def active(self) -> jax.Array:
    """Which members take part: bool[K]; the others are quarantined."""
    return self.held < QUARANTINED

  @property
  def evaluated(self) -> tuple[PyTree, PyTree]:
    """(params, stats) that are evaluated and kept: averaged ones if there are any."""
    if self.average:
      return self.average["params"], self.average["stats"]
    return self.params, self.stats


@struct.dataclass
class MethodState:
  """A method's own state.

  Attributes:
    modules: owner -> what is trained beside the members. The owner is a group, and
      leaves are [K, ...] as the group's are; or a single member; or has any other name,
      such as `method.SHARED`, and the modules are everybody's. Leaves of the latter two
      have no axis of members.
    memory: what is remembered, any pytree.
  """

  modules: dict[str, Group]
  memory: PyTree


@struct.dataclass
class TrainState:
  """All state of a run, one pytree: what a checkpoint holds.

  Attributes:
    step: i32[] optimiser steps done. It is the only position in the data and in the
      random streams.
    key: the run's PRNG key. Constant: streams are folded from it, it is never split and
      carried.
    cohort: group name -> `Group`.
    method: the method's state.
    intact: copies of groups that members may be restarted from, in checkpoints only;
      {} unless they are restarted.
  """

  step: jax.Array
  key: jax.Array
  cohort: dict[str, Group]
  method: MethodState
  intact: dict[str, Group] = struct.field(default_factory=dict)


@struct.dataclass
class Table:
  """Per-example memory of a method; the type itself says that it is sharded over N.

  Attributes:
    rows: [N, ...], N rounded up to a number that devices can share evenly.
  """

  rows: jax.Array


@struct.dataclass
class Objective:
  """What a method asks the step to minimise.

  Attributes:
    member: f32[M] loss of each member. `member[i]` depends on another member's output
      only through `stop_gradient`, unless the method says otherwise.
    shared: f32[] loss of the method's own modules.
    metrics: name -> [] or [M] values to log; entries that are not finite are left out
      of their mean.
    stats: owner -> new collections of its modules, such as batch statistics (not
      differentiated); owners that are left out keep theirs.
    memory: the method's new memory (not differentiated); None leaves it as it is.
  """

  member: jax.Array
  shared: jax.Array | float = 0.0
  metrics: dict[str, jax.Array] = struct.field(default_factory=dict)
  stats: dict[str, PyTree] = struct.field(default_factory=dict)
  memory: PyTree = None


@struct.dataclass
class Mean:
  """A mean in the making: merged by addition, so a masked remainder stays exact.

  Attributes:
    total: weighted sum.
    count: sum of the weights.
  """

  total: jax.Array
  count: jax.Array

  @classmethod
  def of(cls, values: jax.Array, weights: jax.Array | None = None, axis=None) -> "Mean":
    """Sums `values` times `weights` over `axis`.

    Weight zero leaves a value out, even if it is not finite.
    """
    values = jnp.asarray(values, jnp.float32)
    if weights is None:
      weights = jnp.ones_like(values)
    weights = jnp.broadcast_to(weights, values.shape).astype(jnp.float32)
    counted = jnp.where(weights > 0, values, 0)
    return cls(jnp.sum(counted * weights, axis), jnp.sum(weights, axis))

  def __add__(self, other: "Mean") -> "Mean":
    """Merges two means."""
    return Mean(self.total + other.total, self.count + other.count)

  def value(self) -> jax.Array:
    """Returns total / count, NaN where nothing was counted."""
    return jnp.where(
      self.count > 0, self.total / jnp.maximum(self.count, 1e-9), jnp.nan
    )


class Augment(Protocol):
  """Augmentation of each image by itself: uint8, or f32 in [0, 1], to either of them.

  Images are [B, H, W, 3]; height and width may change.
  """

  def __call__(self, key: jax.Array, image: jax.Array, /) -> jax.Array:
    """Augments every image of a batch by a draw of its own."""
    ...


class Mix(NamedTuple):
  """An augmentation that mixes the images of a batch, for all members alike.

  Attributes:
    apply: (key, image f32[1 or M, B, H, W, 3]) -> (mixed images, Mixture).
  """

  apply: Callable[[jax.Array, jax.Array], tuple[jax.Array, Mixture]]


AugmentOp = Augment | Mix
"""An operation of the pool of augmentations."""


class Perturb(Protocol):
  """Draws a member, an operation and its strength, and applies it."""

  def __call__(
    self, key: jax.Array, step: jax.Array, image: jax.Array, /
  ) -> tuple[jax.Array, Perturbation]:
    """Returns (image f32[B, H, W, 3] of the perturbed member, what was done).

    Args:
      key: the step's key.
      step: i32[] number of the step.
      image: f32[1, B, H, W, 3] that all members share, or f32[M, B, H, W, 3], one batch
        for each.
    """
    ...


class MakeViews(Protocol):
  """Prepares a step's inputs on the device."""

  def __call__(
    self, key: jax.Array, step: jax.Array, batch: Batch, /
  ) -> tuple[Views, jax.Array]:
    """Returns (Views, clean images f32[1 or M, B, H, W, 3], normalised)."""
    ...


TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Mean]]]
