"""Runs a method's loss on given logits, without a network."""

import jax
import jax.numpy as jnp

from jaxdistill.core import registry
from jaxdistill.core.method import Context, Method, Step
from jaxdistill.core.types import (
  Batch,
  ModelOutput,
  Objective,
  Outputs,
  Perturbation,
  Views,
)


def method(name, **kwargs) -> Method:
  return registry.resolve("methods", name, **kwargs)


def mixing(member, weight, *, labels=True, batch_size=8) -> Perturbation:
  """What is recorded of a step in which a member's images were mixed.

  Args:
    member: its number.
    weight: of the original images.
    labels: whether labels are mixed as well.
    batch_size: B; every image is mixed with the one at its place from the end.
  """
  return Perturbation(
    member=jnp.int32(member),
    op=jnp.int32(0),
    permutation=jnp.arange(batch_size)[::-1],
    weight=jnp.float32(weight),
    label_weight=jnp.float32(weight if labels else 1),
  )


def step_on(
  logits,
  labels,
  *,
  features=None,
  groups=None,
  perturbation=None,
  mixture=None,
  target=None,
  clean=None,
  first=None,
  modules=None,
  memory=None,
  epoch=0,
  num_epochs=1,
  smoothing=0.0,
) -> Step:
  """Returns the step of members that gave these logits.

  Args:
    logits: [M, B, C]; a member with one that is not finite is not alive.
    labels: i32[B].
    features: features of all members, which then are the group "net".
    groups: group name -> `ModelOutput`, instead.
    perturbation: of the step; unperturbed by default.
    mixture: of all members' images; none are mixed by default.
    target: [M, B, C], the labels by default.
    clean: logits on the unperturbed images, by default the same.
    first: logits before any update of the step, by default the same.
    modules: of the method, owner -> (params, stats).
    memory: of the method.
    epoch: number of the epoch, and of the step.
    num_epochs: of the run.
    smoothing: of the targets.
  """
  size, num_classes = logits.shape[1:]
  if target is None:
    target = jax.nn.one_hot(labels, num_classes)[None].repeat(len(logits), 0)
  if groups is None:
    groups = {"net": ModelOutput(logits, features or {})}
  alive = jnp.isfinite(logits).all((1, 2))
  outputs = Outputs(jnp.where(alive[:, None, None], logits, 0), alive, groups)
  clean_outputs = outputs if clean is None else outputs.replace(logits=clean)
  first_outputs = outputs if first is None else outputs.replace(logits=first)

  def no_forward(variables, images):
    raise AssertionError("there is no network here")

  context = Context(
    step=jnp.int32(epoch),
    epoch=jnp.int32(epoch),
    num_epochs=num_epochs,
    steps_per_epoch=1,
    key=jax.random.key(0),
    forward=no_forward,
    forward_clean=lambda: clean_outputs,
  )
  return Step(
    modules=modules or {},
    memory=memory or {},
    outputs=outputs,
    first=first_outputs,
    batch=Batch(
      image=None,
      label=jnp.asarray(labels),
      index=jnp.arange(size),
      mask=jnp.ones(size),
    ),
    views=Views(
      image=None,
      target=target,
      perturbation=perturbation or Perturbation.none(size),
      mixture=mixture,
      smoothing=smoothing,
    ),
    context=context,
  )


def evaluate(which, logits, labels, **kwargs) -> Objective:
  """Runs a method's loss on given logits [M, B, C]; see `step_on`."""
  return which.loss(step_on(logits, labels, **kwargs))
