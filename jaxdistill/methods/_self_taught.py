"""The method in which every member is its own teacher."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxdistill import losses
from jaxdistill.core.method import Context, Method, Setup, Step, mean_ensemble
from jaxdistill.core.types import (
  Group,
  ModelOutput,
  Objective,
  Outputs,
  PyTree,
  Variables,
)
from jaxdistill.methods._branches import (
  Head,
  Heads,
  init_branches,
  predict_branches,
  run_branches,
)
from jaxdistill.methods._past import Softening


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shallow:
  """How shallow classifiers and features are taught; see `self_taught`.

  Attributes:
    stages: features that get a branch; none stands for every stage but the last.
    classify: whether the branches classify; else they have mutual features only.
    alpha: a, weight of the deepest classifier as a teacher.
    temperature: T of its KL.
    hint_weight: l.
    hint_reduce: "sum" or "mean" over the batch.
    mutual_weight: m; 0 leaves mutual features out.
    mutual_temperature: of their softmax.
    printed_kl: KL(p_i || p_N) at T = 1 instead of T^2 KL(p_N || p_i).
  """

  stages: tuple[str, ...] = ()
  classify: bool = True
  alpha: float = 0.1
  temperature: float = 3.0
  hint_weight: float = 1e-6
  hint_reduce: str = "sum"
  mutual_weight: float = 0.0
  mutual_temperature: float = 1.0
  printed_kl: bool = False

  def kl(self, logits: jax.Array, deepest: jax.Array) -> jax.Array:
    """Returns the KL of a shallow classifier to the deepest: [..., C] x2 -> [...]."""
    if self.printed_kl:
      return losses.kl_divergence(deepest, logits)
    return losses.kl_divergence(logits, deepest, self.temperature)


def self_taught(
  *,
  softening: Softening | None = None,
  shallow: Shallow | None = None,
  deep_weight: float = 1.0,
) -> Method:
  """Returns the method in which a member learns from its past and its deepest layers.

      L = d CE(p_N, y) + m DMFL
          + sum_{i < N} [(1 - a) CE(p_i, y) + a T^2 KL(p_N || p_i) + l |f_i - f_N|^2]

  Args:
    softening: how past predictions soften the labels y; None leaves them as they are.
    shallow: weights of the shallow parts, or None.
    deep_weight: d.
  """

  def loss(step: Step) -> Objective:
    memory = dict(step.memory)

    # The labels: softened by the past.
    target = step.views.target
    if softening:
      target, memory["past"] = softening.soften(memory["past"], step)

    # The deepest classifier.
    deep = losses.soft_cross_entropy(step.outputs.logits, target).mean(axis=1)
    member = deep_weight * deep
    if not shallow:
      return Objective(member=member, memory=memory)

    # The shallow classifiers: taught by the deepest.
    heads, stats = run_branches(step.modules, step.outputs, train=True)
    parts = _join_groups(shallow, heads, step.outputs, target)
    if shallow.classify:
      member += (
        (1 - shallow.alpha) * parts["shallow_ce"]
        + shallow.alpha * parts["kl"]
        + shallow.hint_weight * parts["hint"]
      )
    if shallow.mutual_weight:
      member += shallow.mutual_weight * parts["mutual"]
    return Objective(member=member, metrics=parts, stats=stats, memory=memory)

  def init(key: jax.Array, setup: Setup) -> tuple[Variables, PyTree]:
    modules = {}
    memory = {}
    if softening:
      memory["past"] = softening.past.init(setup)
    if shallow:
      modules = init_branches(key, setup, shallow.stages, classify=shallow.classify)
    return modules, memory

  def update(memory: PyTree, cohort: dict[str, Group], context: Context) -> PyTree:
    if not softening:
      return memory
    past = softening.past.update(memory["past"], cohort, context)
    return {**memory, "past": past}

  def predict(
    modules: Variables, memory: PyTree, outputs: Outputs
  ) -> dict[str, jax.Array]:
    predicted = mean_ensemble(modules, memory, outputs)
    if shallow and shallow.classify:
      predicted |= predict_branches(modules, outputs)
    return predicted

  return Method(loss=loss, init=init, update=update, predict=predict)


def shallow_losses(
  shallow: Shallow, heads: dict[str, Head], output: ModelOutput, target: jax.Array
) -> dict[str, jax.Array]:
  """Computes the parts of the objective that branches add, for the members of a group.

  Args:
    shallow: which parts there are.
    heads: stage -> what its branches return, leaves [K, B, ...].
    output: of the group; detached here where it teaches.
    target: f32[K, B, C].

  Returns:
    Name -> f32[K]: "shallow_ce", "kl" and "hint" are sums over a member's branches,
    "mutual" is their mean.
  """
  parts = {}
  if shallow.classify:
    parts |= _classifier_losses(shallow, heads, output, target)
  if shallow.mutual_weight:
    parts["mutual"] = _mutual_loss(shallow, heads, output)
  return parts


def _classifier_losses(
  shallow: Shallow, heads: dict[str, Head], output: ModelOutput, target: jax.Array
) -> dict[str, jax.Array]:
  """Computes what shallow classifiers learn from labels and from the deepest one."""
  teacher_logits = jax.lax.stop_gradient(output.logits)
  teacher_features = jax.lax.stop_gradient(_pooled(output))
  label_loss = jnp.zeros(len(output.logits))
  kl = jnp.zeros(len(output.logits))
  hint = jnp.zeros(output.logits.shape[:2])
  for head in heads.values():
    assert head.logits is not None
    label_loss += losses.soft_cross_entropy(head.logits, target).mean(axis=1)
    kl += shallow.kl(head.logits, teacher_logits).mean(axis=1)
    hint += jax.vmap(losses.byot_hint)(head.pooled, teacher_features)
  reduce = jnp.sum if shallow.hint_reduce == "sum" else jnp.mean
  return {"shallow_ce": label_loss, "kl": kl, "hint": reduce(hint, axis=1)}


def _mutual_loss(
  shallow: Shallow, heads: dict[str, Head], output: ModelOutput
) -> jax.Array:
  """Computes the mutual feature loss of the branches and the network: f32[K]."""

  def mutual(branch: jax.Array, network: jax.Array) -> jax.Array:
    return losses.dmfl(branch, network, shallow.mutual_temperature)

  total = jnp.zeros(len(output.logits))
  for head in heads.values():
    total += jax.vmap(mutual)(head.pooled, _pooled(output)).mean(axis=1)
  return total / len(heads)


def _pooled(output: ModelOutput) -> jax.Array:
  """Returns the network's own pooled features f32[K, B, D]."""
  return output.features["pooled"].astype(jnp.float32)


def _join_groups(
  shallow: Shallow, heads: Heads, outputs: Outputs, target: jax.Array
) -> dict[str, jax.Array]:
  """Returns the parts of `shallow_losses` for all members, f32[M] each."""
  parts: dict[str, list[jax.Array]] = {}
  start = 0
  for group, output in outputs.groups.items():
    end = start + len(output.logits)
    group_parts = shallow_losses(shallow, heads[group], output, target[start:end])
    for name, value in group_parts.items():
      parts.setdefault(name, []).append(value)
    start = end
  return {name: jnp.concatenate(values) for name, values in parts.items()}
