"""Schedules: the learning rate as a function of the step.

A schedule is made by a factory that gets the peak rate and the run's clock, and whose
keyword arguments are config keys of the section `optimizer`. Durations are "500 steps",
"2 epochs" or "30%" of the run.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import optax

from jaxdistill.core.durations import Clock
from jaxdistill.errors import require, require_not_negative, require_positive


def constant(peak: float, clock: Clock) -> optax.Schedule:
  """Returns the same rate for every step.

  Args:
    peak: the rate.
    clock: of the run.
  """
  del clock
  return optax.constant_schedule(peak)


def step(
  peak: float, clock: Clock, *, milestones: Sequence[str] = (), decay: float = 0.1
) -> optax.Schedule:
  """Returns a rate that is multiplied by `decay` at every milestone.

  Args:
    peak: rate before the first milestone.
    clock: of the run.
    milestones: durations from the start of the run, rising; in a very short run some
      may coincide.
    decay: factor of a milestone, above 0.
  """
  require_positive(decay=decay)
  at = [clock.steps("milestones", milestone) for milestone in milestones]
  require(at == sorted(at), f"milestones must rise, got {tuple(milestones)}")
  factors = {milestone: decay ** at.count(milestone) for milestone in at}
  return optax.piecewise_constant_schedule(peak, factors)


def cosine(peak: float, clock: Clock, *, final: float = 0.0) -> optax.Schedule:
  """Returns a rate that falls along half a cosine over the whole run.

  Args:
    peak: first rate.
    clock: of the run.
    final: fraction of the peak at the end of the run, in 0..1.
  """
  require(0 <= final <= 1, f"final must lie in 0..1, got {final}")
  return optax.cosine_decay_schedule(peak, clock.total_steps, alpha=final)


def linear(peak: float, clock: Clock, *, final: float = 0.0) -> optax.Schedule:
  """Returns a rate that falls linearly over the whole run.

  Args:
    peak: first rate.
    clock: of the run.
    final: fraction of the peak at the end of the run, at least 0.
  """
  require_not_negative(final=final)
  fall = optax.linear_schedule(peak, final * peak, clock.total_steps)
  # Rounding may take the last rate below zero.
  return lambda step: jnp.maximum(fall(step), 0)


def exponential(
  peak: float, clock: Clock, *, decay: float = 0.97, every: str = "1 epoch"
) -> optax.Schedule:
  """Returns a rate that falls exponentially.

  Args:
    peak: first rate.
    clock: of the run.
    decay: factor of every such duration, above 0.
    every: duration.
  """
  require_positive(decay=decay)
  period = clock.steps("every", every)
  require_positive(every=period)
  return optax.exponential_decay(peak, period, decay)
