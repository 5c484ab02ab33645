"""Blocks shared by the methods in which a network is its own teacher: past predictions and shallow classifiers."""

from collections.abc import Callable
import functools
import re
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill import losses, rng, tables
from jaxdistill.convolution import batch_norm, member_conv
from jaxdistill.errors import require, require_choice
from jaxdistill.protocol import Method, Setup, mean_ensemble
from jaxdistill.types import Objective, Outputs, PyTree


def stage_names(features: dict) -> tuple[str, ...]:
  """Returns the features that are called stage and a number, from shallow to deep."""
  stages = [name for name in features if re.fullmatch(r"stage\d+", name)]
  return tuple(sorted(stages, key=lambda name: int(name.removeprefix("stage"))))


class Past(NamedTuple):
  """Where a network's earlier predictions come from.

  Attributes:
    init: setup -> memory.
    recall: (memory, outputs, batch, views, context) -> (probabilities f32[M, B, C], known bool[M, B], memory).
    update: (memory, cohort, context) -> memory, after the optimiser step.
  """

  init: Callable[[Setup], PyTree]
  recall: Callable[..., tuple[jax.Array, jax.Array, PyTree]]
  update: Callable[..., PyTree]


def past_table(dtype: str, top_k: int) -> Past:
  """Remembers what every member predicted for every example when it last trained on it."""

  def init(setup):
    return tables.create(setup.num_examples, setup.num_classes, (len(setup.outputs.members),), dtype=dtype, top_k=top_k)

  def recall(memory, outputs, batch, views, context):
    del context
    past = jnp.swapaxes(tables.read(memory, batch.index, outputs.logits.shape[-1]), 0, 1)
    # What was predicted for a mixture of images says nothing of the example; nor do the zeros of a broken member.
    mixed = (jnp.arange(len(past)) == views.perturbation.member) & (views.perturbation.weight < 1)
    new = jax.nn.softmax(jax.lax.stop_gradient(outputs.logits))
    new = jnp.where((mixed | ~outputs.alive)[:, None, None], past, new)
    return past, past.sum(axis=-1) > 0.5, tables.write(memory, batch.index, jnp.swapaxes(new, 0, 1), batch.mask)

  return Past(init, recall, lambda memory, cohort, context: memory)


def past_weights() -> Past:
  """Remembers the members' weights of the end of the last epoch, and runs them in evaluation mode."""

  def variables(cohort):
    return {name: (group.params, group.stats) for name, group in cohort.items()}

  def recall(memory, outputs, batch, views, context):
    del batch
    past = jax.lax.stop_gradient(context.forward(memory, views.image))
    known = (context.epoch > 0) & past.alive
    return jax.nn.softmax(past.logits), jnp.broadcast_to(known[:, None], outputs.logits.shape[:2]), memory

  def update(memory, cohort, context):
    ended = (context.step + 1) % context.steps_per_epoch == 0
    return jax.tree.map(lambda new, old: jnp.where(ended, new, old), variables(cohort), memory)

  return Past(lambda setup: variables(setup.cohort), recall, update)


def make_past(source: str, dtype: str, top_k: int) -> Past:
  """Builds the past that the keys of a config describe; raises ConfigError for values out of range."""
  require_choice(source=(source, ("table", "previous_weights")), dtype=(dtype, tables.DTYPES))
  require(top_k >= 0, f"top_k must be at least 0, got {top_k}")
  return past_table(dtype, top_k) if source == "table" else past_weights()


def softened(past: Past, alpha: float, schedule: str) -> Callable:
  """Returns (memory, outputs, batch, views, context) -> (target f32[M, B, C], memory): (1 - a) y + a P_past.

  a is `alpha`, or under the "linear" schedule alpha (e + 1) / E in epoch e of E; an example of which nothing is known
  yet keeps its label.
  """
  def target(memory, outputs, batch, views, context):
    probabilities, known, memory = past.recall(memory, outputs, batch, views, context)
    share = alpha * (context.epoch + 1) / context.num_epochs if schedule == "linear" else alpha
    return views.target + jnp.where(known[..., None], share * (probabilities - views.target), 0), memory
  return target


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
    for features, kernel in ((self.features // 4, 1), (self.features // 4, self.kernel), (self.features, 1)):
      x = nn.Conv(features, (kernel, kernel), (kernel, kernel), padding="VALID", conv_general_dilated=member_conv)(x)
      x = nn.relu(batch_norm(train)(x))
    pooled = x.mean(axis=(1, 2))
    return nn.Dense(self.num_classes, name="classifier")(pooled) if self.num_classes else None, pooled


def _shallow_stages(group: str, features: dict, stages: tuple[str, ...]) -> tuple[str, ...]:
  """Returns the stages of a group that get a branch; raises ConfigError where there are none, or no maps."""
  names = stage_names(features)
  chosen = stages or names[:-1]
  require(bool(chosen), f"{group} has {len(names)} stage{'s' if len(names) != 1 else ''}: a shallow classifier needs a "
          "stage before the last; use a network with several")
  last = features[names[-1]].shape
  for stage in chosen:
    require(stage in features, f"stages: {stage!r} is not a feature of {group}: it has {', '.join(features)}")
    shape = features[stage].shape
    require(len(shape) == len(last) == 5 and shape[2] % last[2] == 0 and shape[2] // last[2] == shape[3] / last[3],
            f"stages: a branch on {stage} of {group} needs a map that is a multiple of the last stage's, it is "
            f"{list(shape[2:])} and {list(last[2:])}: name others")
  require(features["pooled"].shape[-1] >= 4, f"{group} pools {features['pooled'].shape[-1]} features; a branch needs "
          "at least 4")
  return chosen


def _branch(features: dict[str, jax.Array], stage: str, num_classes: int) -> Branch:
  last = stage_names(features)[-1]
  return Branch(features["pooled"].shape[-1], features[stage].shape[2] // features[last].shape[2], num_classes)


def init_branches(key: jax.Array, setup: Setup, stages: tuple[str, ...], classify: bool) -> tuple[PyTree, PyTree]:
  """Initialises a branch for every stage of every member: (params, stats), group -> stage -> leaves [K, ...].

  Raises:
    ConfigError: for a network without a shallower stage, or a stage that suits no branch.
  """
  params, stats = {}, {}
  for spec in setup.specs:
    features = setup.outputs.groups[spec.name].features
    params[spec.name], stats[spec.name] = {}, {}
    for stage in _shallow_stages(spec.name, features, stages):
      module = _branch(features, stage, setup.num_classes if classify else 0)
      keys = jnp.stack([rng.stream(key, f"{name}.{stage}") for name in spec.members])
      one = functools.partial(module.init, x=jnp.zeros((1, *features[stage].shape[2:])), train=False)
      variables = jax.vmap(lambda k, one=one: one(k))(keys)
      params[spec.name][stage], stats[spec.name][stage] = variables["params"], variables["batch_stats"]
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
        result, updated = module.apply(variables, x, train=True, mutable=["batch_stats"])
        return result, updated["batch_stats"]
      results[group][stage], new[group][stage] = jax.vmap(one)(p, stats[group][stage], output.features[stage])
  return results, new


def predict_branches(params: PyTree, stats: PyTree, outputs: Outputs) -> dict[str, jax.Array]:
  """Probabilities of every shallow classifier, "<member>.<stage>", and of a member's mean logits, "<member>.heads"."""
  results, _ = run_branches(params, stats, outputs, train=False)
  predicted = {}
  for group, stages in results.items():
    deepest = outputs.groups[group].logits
    for k in range(len(deepest)):
      heads = {f"{group}.{k}.{stage}": logits[k] for stage, (logits, _) in stages.items()}
      heads[f"{group}.{k}.heads"] = jnp.stack([deepest[k], *heads.values()]).mean(axis=0)
      predicted |= {name: jax.nn.softmax(logits) for name, logits in heads.items()}
  return predicted


class Shallow(NamedTuple):
  """How shallow classifiers and features are taught; see `self_taught`."""

  stages: tuple[str, ...] = ()
  classify: bool = True
  alpha: float = 0.1
  temperature: float = 3.0
  hint_weight: float = 1e-6
  hint_reduce: str = "sum"
  mutual_weight: float = 0.0
  mutual_temperature: float = 1.0
  printed_kl: bool = False


def _shallow_kl(shallow: Shallow, logits: jax.Array, deepest: jax.Array) -> jax.Array:
  if shallow.printed_kl:
    return losses.kl_divergence(deepest, logits)
  return losses.kl_divergence(logits, deepest, shallow.temperature)


def _shallow_losses(shallow: Shallow, results: dict, outputs: Outputs, target: jax.Array) -> dict[str, jax.Array]:
  """Returns the parts of the objective, f32[M] each, summed over a member's shallow stages, `mutual` averaged."""
  parts, start = {"shallow_ce": [], "kl": [], "hint": [], "mutual": []}, 0
  for group, stages in results.items():
    output = outputs.groups[group]
    deepest, features = output.logits, output.features["pooled"].astype(jnp.float32)
    own = target[start:start + len(deepest)]
    start += len(deepest)
    logits, pooled = (list(column) for column in zip(*stages.values()))
    detached = jax.lax.stop_gradient
    if shallow.classify:
      parts["shallow_ce"].append(sum(losses.soft_cross_entropy(z, own).mean(axis=1) for z in logits))
      parts["kl"].append(sum(_shallow_kl(shallow, z, detached(deepest)).mean(axis=1) for z in logits))
      hints = sum(jax.vmap(losses.byot_hint)(f, detached(features)) for f in pooled)
      parts["hint"].append(hints.sum(axis=1) if shallow.hint_reduce == "sum" else hints.mean(axis=1))
    if shallow.mutual_weight:
      both = jax.vmap(lambda f, g: losses.dmfl(f, g, shallow.mutual_temperature))
      parts["mutual"].append(sum(both(f, features).mean(axis=1) for f in pooled) / len(pooled))
  return {name: jnp.concatenate(values) for name, values in parts.items() if values}


def self_taught(past: Past | None, target: Callable | None, shallow: Shallow | None, deep_weight: float) -> Method:
  """Makes the method in which every member learns from its own past and teaches its own shallow classifiers.

      L = d CE(p_N, y) + sum_{i < N} [(1 - a) CE(p_i, y) + a T^2 KL(p_N || p_i) + l |f_i - f_N|^2] + m DMFL

  Args:
    past: where past predictions come from, or None.
    target: from `softened`; None takes the labels.
    shallow: weights of the shallow parts, or None.
    deep_weight: d.
  """
  def loss(params, memory, outputs, batch, views, context):
    wanted = views.target
    if past:
      wanted, recalled = target(memory["past"], outputs, batch, views, context)
      memory = {**memory, "past": recalled}
    objective = deep_weight * losses.soft_cross_entropy(outputs.logits, wanted).mean(axis=1)
    parts = {}
    if shallow:
      results, stats = run_branches(params, memory["stats"], outputs, train=True)
      memory = {**memory, "stats": stats}
      parts = _shallow_losses(shallow, results, outputs, wanted)
      if shallow.classify:
        objective += ((1 - shallow.alpha) * parts["shallow_ce"] + shallow.alpha * parts["kl"]
                      + shallow.hint_weight * parts["hint"])
      if shallow.mutual_weight:
        objective += shallow.mutual_weight * parts["mutual"]
    return Objective(objective, jnp.float32(0), parts, memory)

  def init(key, setup):
    params, memory = {}, {"past": past.init(setup)} if past else {}
    if shallow:
      params, memory["stats"] = init_branches(key, setup, shallow.stages, shallow.classify)
    return params, memory

  def update(memory, cohort, context):
    return {**memory, "past": past.update(memory["past"], cohort, context)} if past else memory

  def predict(params, memory, outputs):
    predicted = mean_ensemble(params, memory, outputs)
    if shallow and shallow.classify:
      predicted |= predict_branches(params, memory["stats"], outputs)
    return predicted

  return Method(loss=loss, init=init, update=update, predict=predict)
