"""Shallow classifiers on the earlier stages of a network."""

from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core import rng
from jaxdistill.core.method import GroupSpec, Setup
from jaxdistill.core.types import ModelOutput, Outputs, PyTree, Variables
from jaxdistill.errors import require
from jaxdistill.nn.conv import member_conv
from jaxdistill.nn.norm import batch_norm


class Head(NamedTuple):
  """What a branch returns.

  Attributes:
    logits: [B, C]; None for a branch without a classifier.
    pooled: [B, D].
  """

  logits: jax.Array | None
  pooled: jax.Array


Heads = dict[str, dict[str, Head]]
"""Group name -> stage -> `Head` of all its members, leaves [K, B, ...]."""


class Branch(nn.Module):
  """A shallow classifier: a bottleneck, pooling and a dense layer.

  The bottleneck brings a stage's map to the size of the last stage's.

  Attributes:
    features: D of the pooled vector.
    kernel: ratio of the map's size to that of the last one.
    num_classes: C; 0 leaves the classifier out.
  """

  features: int
  kernel: int
  num_classes: int

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> Head:
    """Runs the branch on a map [B, H, W, D']."""
    x = x.astype(jnp.float32)
    x = self._conv_norm_relu(x, self.features // 4, 1, train)
    x = self._conv_norm_relu(x, self.features // 4, self.kernel, train)
    x = self._conv_norm_relu(x, self.features, 1, train)
    pooled = x.mean(axis=(1, 2))
    if not self.num_classes:
      return Head(logits=None, pooled=pooled)
    logits = nn.Dense(self.num_classes, name="classifier")(pooled)
    return Head(logits=logits, pooled=pooled)

  def _conv_norm_relu(
    self, x: jax.Array, features: int, kernel: int, train: bool
  ) -> jax.Array:
    """Convolves blocks of `kernel` x `kernel` positions that do not overlap."""
    x = nn.Conv(
      features,
      kernel_size=(kernel, kernel),
      strides=(kernel, kernel),
      padding="VALID",
      conv_general_dilated=member_conv,
    )(x)
    return nn.relu(batch_norm(train)(x))


def init_branches(
  key: jax.Array, setup: Setup, stages: tuple[str, ...], *, classify: bool
) -> Variables:
  """Initialises a branch for every stage of every member.

  Args:
    key: PRNG key.
    setup: of the run.
    stages: features that get a branch; none stands for every stage but the last.
    classify: whether the branches end in a classifier.

  Returns:
    Group name -> (params, stats), each stage -> leaves [K, ...].

  Raises:
    ConfigError: for a network without a shallower stage, or a stage that suits no
      branch.
  """
  num_classes = setup.num_classes if classify else 0
  modules = {}
  for spec in setup.specs:
    output = setup.outputs.groups[spec.name]
    params = {}
    stats = {}
    for stage in _choose_stages(spec.name, output, stages):
      variables = _init_branch(key, spec, output, stage, num_classes)
      params[stage] = variables["params"]
      stats[stage] = variables["batch_stats"]
    modules[spec.name] = (params, stats)
  return modules


def run_branches(
  modules: Variables, outputs: Outputs, *, train: bool
) -> tuple[Heads, dict[str, PyTree]]:
  """Runs all branches.

  Args:
    modules: from `init_branches`.
    outputs: of the cohort.
    train: whether batch statistics are those of the batch.

  Returns:
    (what every branch returns, group name -> new stats).
  """
  heads = {}
  new_stats = {}
  for group, output in outputs.groups.items():
    params, stats = modules[group]
    heads[group] = {}
    new_stats[group] = {}
    for stage in params:
      heads[group][stage], new_stats[group][stage] = _run_branch(
        params[stage], stats[stage], output, stage, train=train
      )
  return heads, new_stats


def predict_branches(modules: Variables, outputs: Outputs) -> dict[str, jax.Array]:
  """Predicts with every shallow classifier, and with all classifiers of a member.

  Args:
    modules: from `init_branches`, with classifiers.
    outputs: of the cohort.

  Returns:
    Log-probabilities f32[B, C] of each classifier, "<member>.<stage>", and of a
    member's mean logits, "<member>.heads".
  """
  heads, _ = run_branches(modules, outputs, train=False)
  predicted = {}
  for group, stages in heads.items():
    for k, deepest in enumerate(outputs.groups[group].logits):
      logits = {}
      for stage, head in stages.items():
        assert head.logits is not None
        logits[f"{group}.{k}.{stage}"] = head.logits[k]
      mean = jnp.stack([deepest, *logits.values()]).mean(axis=0)
      logits[f"{group}.{k}.heads"] = mean
      for name, value in logits.items():
        predicted[name] = jax.nn.log_softmax(value)
  return predicted


def _choose_stages(
  group: str, output: ModelOutput, stages: tuple[str, ...]
) -> tuple[str, ...]:
  """Returns the stages of a group that get a branch.

  Args:
    group: its name.
    output: of its members, as shapes.
    stages: what the config names; none stands for every stage but the last.

  Raises:
    ConfigError: where there are none, or a branch cannot be put on one.
  """
  count = len(output.stages)
  chosen = stages or output.stages[:-1]
  plural = "" if count == 1 else "s"
  require(
    bool(chosen) and count > 0,
    f"{group} has {count} stage{plural}: a shallow classifier needs a "
    "stage before the last; use a network with several",
  )
  for stage in chosen:
    _require_suitable(group, output, stage)
  pooled = output.features["pooled"].shape[-1]
  require(pooled >= 4, f"{group} pools {pooled} features; a branch needs at least 4")
  return chosen


def _require_suitable(group: str, output: ModelOutput, stage: str) -> None:
  """Raises ConfigError unless a stage's map is a multiple of the last stage's."""
  require(
    stage in output.features,
    f"stages: {stage!r} is not a feature of {group}: "
    f"it has {', '.join(output.features)}",
  )
  # [K, B, H, W, D].
  shape = output.features[stage].shape
  last = output.features[output.stages[-1]].shape
  suitable = (
    len(shape) == len(last) == 5
    and shape[2] % last[2] == 0
    and shape[2] // last[2] == shape[3] / last[3]
  )
  require(
    suitable,
    f"stages: a branch on {stage} of {group} needs a map that is a multiple of the "
    f"last stage's, it is {list(shape[2:])} and {list(last[2:])}: name others",
  )


def _make_branch(output: ModelOutput, stage: str, num_classes: int) -> Branch:
  """Returns the module of a stage; `output` holds arrays or shapes."""
  height = output.features[stage].shape[2]
  last_height = output.features[output.stages[-1]].shape[2]
  return Branch(
    features=output.features["pooled"].shape[-1],
    kernel=height // last_height,
    num_classes=num_classes,
  )


def _init_branch(
  key: jax.Array, spec: GroupSpec, output: ModelOutput, stage: str, num_classes: int
) -> PyTree:
  """Initialises the branch of a stage for every member of a group: leaves [K, ...]."""
  module = _make_branch(output, stage, num_classes)
  x = jnp.zeros((1, *output.features[stage].shape[2:]))

  def init(member_key: jax.Array) -> PyTree:
    return module.init(member_key, x=x, train=False)

  keys = jnp.stack([rng.stream(key, f"{name}.{stage}") for name in spec.members])
  return jax.vmap(init)(keys)


def _run_branch(
  params: PyTree, stats: PyTree, output: ModelOutput, stage: str, *, train: bool
) -> tuple[Head, PyTree]:
  """Runs the branch of a stage for every member of a group: (head, new stats)."""
  num_classes = 0
  if "classifier" in params:
    num_classes = params["classifier"]["bias"].shape[-1]
  module = _make_branch(output, stage, num_classes)

  def run_member(params: PyTree, stats: PyTree, x: jax.Array) -> tuple[Head, PyTree]:
    variables = {"params": params, "batch_stats": stats}
    collections = ["batch_stats"] if train else []
    head, updated = module.apply(variables, x, train=train, mutable=collections)
    return head, updated.get("batch_stats", stats)

  return jax.vmap(run_member)(params, stats, output.features[stage])
