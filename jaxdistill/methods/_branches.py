"""Shallow classifiers on the earlier stages of a network."""

import functools
import re

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.core import rng
from jaxdistill.core.method import Setup
from jaxdistill.core.types import Outputs, PyTree
from jaxdistill.errors import require
from jaxdistill.nn.conv import batch_norm, member_conv


def stage_names(features: dict) -> tuple[str, ...]:
  """Returns the features that are called stage and a number, from shallow to deep."""
  stages = [name for name in features if re.fullmatch(r"stage\d+", name)]
  return tuple(sorted(stages, key=lambda name: int(name.removeprefix("stage"))))


class Branch(nn.Module):
  """A shallow classifier: a bottleneck that brings a stage's map to the size of the last one, pooling, a dense layer.

  Attributes:
    features: D of the pooled vector.
    kernel: ratio of the map's size to that of the last one.
    num_classes: C; 0 leaves the classifier out.
  """

  features: int
  kernel: int
  num_classes: int

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> tuple[jax.Array | None, jax.Array]:
    """Returns (logits [B, C] or None, pooled [B, D]) of a map [B, H, W, D']."""
    x = x.astype(jnp.float32)
    for features, kernel in (
      (self.features // 4, 1),
      (self.features // 4, self.kernel),
      (self.features, 1),
    ):
      x = nn.Conv(
        features,
        (kernel, kernel),
        (kernel, kernel),
        padding="VALID",
        conv_general_dilated=member_conv,
      )(x)
      x = nn.relu(batch_norm(train)(x))
    pooled = x.mean(axis=(1, 2))
    return nn.Dense(self.num_classes, name="classifier")(
      pooled
    ) if self.num_classes else None, pooled


def _shallow_stages(
  group: str, features: dict, stages: tuple[str, ...]
) -> tuple[str, ...]:
  """Returns the stages of a group that get a branch; raises ConfigError where there are none, or no maps."""
  names = stage_names(features)
  chosen = stages or names[:-1]
  require(
    bool(chosen),
    f"{group} has {len(names)} stage{'s' if len(names) != 1 else ''}: a shallow classifier needs a "
    "stage before the last; use a network with several",
  )
  last = features[names[-1]].shape
  for stage in chosen:
    require(
      stage in features,
      f"stages: {stage!r} is not a feature of {group}: it has {', '.join(features)}",
    )
    shape = features[stage].shape
    require(
      len(shape) == len(last) == 5
      and shape[2] % last[2] == 0
      and shape[2] // last[2] == shape[3] / last[3],
      f"stages: a branch on {stage} of {group} needs a map that is a multiple of the last stage's, it is "
      f"{list(shape[2:])} and {list(last[2:])}: name others",
    )
  require(
    features["pooled"].shape[-1] >= 4,
    f"{group} pools {features['pooled'].shape[-1]} features; a branch needs at least 4",
  )
  return chosen


def _branch(features: dict[str, jax.Array], stage: str, num_classes: int) -> Branch:
  last = stage_names(features)[-1]
  return Branch(
    features["pooled"].shape[-1],
    features[stage].shape[2] // features[last].shape[2],
    num_classes,
  )


def init_branches(
  key: jax.Array, setup: Setup, stages: tuple[str, ...], classify: bool
) -> tuple[PyTree, PyTree]:
  """Initialises a branch for every stage of every member: (params, stats), group -> stage -> leaves [K, ...].

  Raises:
    ConfigError: for a network without a shallower stage, or a stage that suits no
      branch.
  """
  params, stats = {}, {}
  for spec in setup.specs:
    features = setup.outputs.groups[spec.name].features
    params[spec.name], stats[spec.name] = {}, {}
    for stage in _shallow_stages(spec.name, features, stages):
      module = _branch(features, stage, setup.num_classes if classify else 0)
      keys = jnp.stack([rng.stream(key, f"{name}.{stage}") for name in spec.members])
      one = functools.partial(
        module.init, x=jnp.zeros((1, *features[stage].shape[2:])), train=False
      )
      variables = jax.vmap(lambda k, one=one: one(k))(keys)
      params[spec.name][stage], stats[spec.name][stage] = (
        variables["params"],
        variables["batch_stats"],
      )
  return params, stats


def run_branches(params: PyTree, stats: PyTree, outputs: Outputs, train: bool):
  """Runs all branches.

  Returns:
    (group -> stage -> (logits [K, B, C] or None, pooled [K, B, D]), new stats).
  """
  results, new = {}, {}
  for group, output in outputs.groups.items():
    results[group], new[group] = {}, {}
    for stage, p in params[group].items():
      classes = p["classifier"]["bias"].shape[-1] if "classifier" in p else 0
      module = _branch(output.features, stage, classes)

      def one(p, s, x, module=module):
        variables = {"params": p, "batch_stats": s}
        if not train:
          return module.apply(variables, x, train=False), s
        result, updated = module.apply(
          variables, x, train=True, mutable=["batch_stats"]
        )
        return result, updated["batch_stats"]

      results[group][stage], new[group][stage] = jax.vmap(one)(
        p, stats[group][stage], output.features[stage]
      )
  return results, new


def predict_branches(
  params: PyTree, stats: PyTree, outputs: Outputs
) -> dict[str, jax.Array]:
  """Probabilities of every shallow classifier, "<member>.<stage>", and of a member's mean logits, "<member>.heads"."""
  results, _ = run_branches(params, stats, outputs, train=False)
  predicted = {}
  for group, stages in results.items():
    deepest = outputs.groups[group].logits
    for k in range(len(deepest)):
      heads = {
        f"{group}.{k}.{stage}": logits[k] for stage, (logits, _) in stages.items()
      }
      heads[f"{group}.{k}.heads"] = jnp.stack([deepest[k], *heads.values()]).mean(
        axis=0
      )
      predicted |= {name: jax.nn.softmax(logits) for name, logits in heads.items()}
  return predicted
