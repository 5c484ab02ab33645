"""The method in which every member is its own teacher."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdistill import losses
from jaxdistill.core.method import Method, mean_ensemble
from jaxdistill.core.types import Objective, Outputs
from jaxdistill.methods._branches import init_branches, predict_branches, run_branches
from jaxdistill.methods._past import Past


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


def _shallow_losses(
  shallow: Shallow, results: dict, outputs: Outputs, target: jax.Array
) -> dict[str, jax.Array]:
  """Returns the parts of the objective, f32[M] each, summed over a member's shallow stages, `mutual` averaged."""
  parts, start = {"shallow_ce": [], "kl": [], "hint": [], "mutual": []}, 0
  for group, stages in results.items():
    output = outputs.groups[group]
    deepest, features = output.logits, output.features["pooled"].astype(jnp.float32)
    own = target[start : start + len(deepest)]
    start += len(deepest)
    logits, pooled = (list(column) for column in zip(*stages.values()))
    detached = jax.lax.stop_gradient
    if shallow.classify:
      parts["shallow_ce"].append(
        sum(losses.soft_cross_entropy(z, own).mean(axis=1) for z in logits)
      )
      parts["kl"].append(
        sum(_shallow_kl(shallow, z, detached(deepest)).mean(axis=1) for z in logits)
      )
      hints = sum(jax.vmap(losses.byot_hint)(f, detached(features)) for f in pooled)
      parts["hint"].append(
        hints.sum(axis=1) if shallow.hint_reduce == "sum" else hints.mean(axis=1)
      )
    if shallow.mutual_weight:
      both = jax.vmap(lambda f, g: losses.dmfl(f, g, shallow.mutual_temperature))
      parts["mutual"].append(
        sum(both(f, features).mean(axis=1) for f in pooled) / len(pooled)
      )
  return {name: jnp.concatenate(values) for name, values in parts.items() if values}


def self_taught(
  past: Past | None,
  target: Callable | None,
  shallow: Shallow | None,
  deep_weight: float,
) -> Method:
  """Makes the method in which every member learns from its own past and teaches its own shallow classifiers.

      L = d CE(p_N, y) + sum_{i < N} [(1 - a) CE(p_i, y) + a T^2 KL(p_N || p_i) + l |f_i - f_N|^2] + m DMFL

  Args:
    past: where past predictions come from, or None.
    target: from `softened`; None takes the labels.
    shallow: weights of the shallow parts, or None.
    deep_weight: d.
  """

  def loss(step):
    params, memory, outputs, batch, views, context = step
    wanted = views.target
    if past:
      wanted, recalled = target(memory["past"], outputs, batch, views, context)
      memory = {**memory, "past": recalled}
    objective = deep_weight * losses.soft_cross_entropy(outputs.logits, wanted).mean(
      axis=1
    )
    parts = {}
    if shallow:
      results, stats = run_branches(params, memory["stats"], outputs, train=True)
      memory = {**memory, "stats": stats}
      parts = _shallow_losses(shallow, results, outputs, wanted)
      if shallow.classify:
        objective += (
          (1 - shallow.alpha) * parts["shallow_ce"]
          + shallow.alpha * parts["kl"]
          + shallow.hint_weight * parts["hint"]
        )
      if shallow.mutual_weight:
        objective += shallow.mutual_weight * parts["mutual"]
    return Objective(objective, jnp.float32(0), parts, memory)

  def init(key, setup):
    params, memory = {}, {"past": past.init(setup)} if past else {}
    if shallow:
      params, memory["stats"] = init_branches(
        key, setup, shallow.stages, shallow.classify
      )
    return params, memory

  def update(memory, cohort, context):
    return (
      {**memory, "past": past.update(memory["past"], cohort, context)}
      if past
      else memory
    )

  def predict(params, memory, outputs):
    predicted = mean_ensemble(params, memory, outputs)
    if shallow and shallow.classify:
      predicted |= predict_branches(params, memory["stats"], outputs)
    return predicted

  return Method(loss=loss, init=init, update=update, predict=predict)
