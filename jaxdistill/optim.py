"""From config to schedule and optax chain; durations in steps, epochs or per cent."""

from collections.abc import Callable, Sequence
import functools
import math
import re

import jax
import optax

from jaxdistill.errors import ConfigError, require, require_choice, require_not_negative, require_positive

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(steps?|epochs?|%)\s*")


def duration(name: str, value: int | str, *, steps_per_epoch: int, total_steps: int) -> int:
  """Converts a duration to steps.

  Args:
    name: config key, for the error.
    value: "500 steps", "2 epochs", "30%" of the run, or a bare number of steps.
    steps_per_epoch: steps of one epoch.
    total_steps: steps of the run.

  Returns:
    Number of steps, rounded, at least 1 unless the duration is 0.

  Raises:
    ConfigError: if it cannot be read.
  """
  match = _DURATION.fullmatch(f"{value} steps" if isinstance(value, int) else str(value))
  if not match:
    raise ConfigError(f"{name} is {value!r}: write '500 steps', '2 epochs' or '30%'")
  number, unit = float(match[1]), match[2]
  steps = number * {"%": total_steps / 100, "e": steps_per_epoch, "s": 1}[unit[0]]
  return max(1, round(steps)) if number else 0


def make_schedule(*, learning_rate: float, schedule: str = "step", milestones: Sequence[str] = (),
                  decay: float = 0.1, warmup: str = "0 steps", steps_per_epoch: int,
                  total_steps: int) -> Callable:
  """Builds the learning rate as a function of the step.

  Args:
    learning_rate: peak value.
    schedule: "constant", "step" (times `decay` at every milestone) or "cosine" (to zero at the end).
    milestones: durations from the start of the run, for "step"; in a very short run some may coincide.
    decay: factor of a milestone.
    warmup: duration of the linear rise from zero; the schedule's clock runs from step 0 all the same.
    steps_per_epoch: steps of one epoch.
    total_steps: steps of the run.

  Raises:
    ConfigError: naming the key.
  """
  prefix = "optimizer."
  require_positive(**{prefix + "learning_rate": learning_rate, prefix + "decay": decay})
  require_choice(**{prefix + "schedule": (schedule, ("constant", "step", "cosine"))})
  steps = lambda name, value: duration(prefix + name, value, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
  warmup_steps = steps("warmup", warmup)
  at = [steps("milestones", m) for m in milestones]
  require(at == sorted(at), f"optimizer.milestones must rise, got {tuple(milestones)}")
  if schedule == "cosine":
    main = optax.cosine_decay_schedule(learning_rate, total_steps)
  elif schedule == "step":
    main = optax.piecewise_constant_schedule(learning_rate, {m: decay**at.count(m) for m in at})
  else:
    main = optax.constant_schedule(learning_rate)
  if not warmup_steps:
    return main
  return lambda step: main(step) * optax.linear_schedule(0.0, 1.0, warmup_steps)(step)


def make_optimizer(*, name: str = "sgd", momentum: float = 0.9, nesterov: bool = True, weight_decay: float = 5e-4,
                   no_decay: Sequence[str] = (), clip_norm: float = 0.0, accumulate: int = 1,
                   **schedule) -> optax.GradientTransformation:
  """Builds the optimiser of one member.

  Args:
    name: "sgd" and "adam" add the decay to the gradient (L2 regularisation, as PyTorch's SGD and Adam do);
      "adamw" decouples it.
    momentum: of "sgd".
    nesterov: of "sgd".
    weight_decay: factor; all parameters decay, biases and normalisation too, as in the methods' released codes.
    no_decay: names of parameters, or of modules with all of theirs, that do not decay, such as "bias", "scale" (of
      normalisations), "cls_token", "pos_embed", "head".
    clip_norm: largest global norm of a member's gradient; 0 does not clip.
    accumulate: steps whose gradients are averaged for one update. The schedule and all durations count steps; who
      teaches whom is decided in every step, on its batch.
    **schedule: see `make_schedule`.

  Raises:
    ConfigError: naming the key.
  """
  require_choice(**{"optimizer.name": (name, ("sgd", "adam", "adamw"))})
  require_not_negative(**{"optimizer.weight_decay": weight_decay, "optimizer.clip_norm": clip_norm})
  require(0 <= momentum < 1, f"optimizer.momentum must be in [0, 1), got {momentum}")
  require(accumulate >= 1, f"optimizer.accumulate must be at least 1, got {accumulate}")
  scheduled = make_schedule(**schedule)
  rate = lambda update: scheduled(update * accumulate)
  parts = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
  decay = [optax.add_decayed_weights(weight_decay, functools.partial(_decays, no_decay))] if weight_decay else []
  if name == "sgd":
    parts += decay + ([optax.trace(momentum, nesterov=nesterov)] if momentum else [])
  else:
    parts += [*decay, optax.scale_by_adam()] if name == "adam" else [optax.scale_by_adam(), *decay]
  tx = optax.chain(*parts, optax.scale_by_learning_rate(rate))
  return tx if accumulate == 1 else optax.MultiSteps(tx, accumulate).gradient_transformation()


def _names(path) -> set[str]:
  """Names that `no_decay` may use for the parameter at a path: its own, its modules', and the parts between dots."""
  whole = [jax.tree_util.keystr((key,), simple=True) for key in path]
  return {part for name in whole for part in (name, *name.split("."))}


def _decays(no_decay: Sequence[str], params):
  """Tells of every parameter whether it decays."""
  return jax.tree_util.tree_map_with_path(lambda path, _: not set(no_decay) & _names(path), params)


def parameter_names(params) -> set[str]:
  """Returns all names that `no_decay` can refer to."""
  return set().union(*(_names(path) for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]))


def common_period(periods: Sequence[int], limit: int) -> int:
  """Returns the largest number up to `limit` that divides all `periods`: how many steps one dispatch may run."""
  divisor = math.gcd(*periods)
  return max(d for d in range(1, min(divisor, max(limit, 1)) + 1) if divisor % d == 0)
