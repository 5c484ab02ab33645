"""States that a run may start from, besides its own: a shorter run's, another run's."""

from collections.abc import Mapping
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxdistill.core.types import TrainState
from jaxdistill.errors import ConfigError, require
from jaxdistill.run.build import Experiment, build
from jaxdistill.run.checkpoint import Checkpoints
from jaxdistill.run.config import ConfigDict, config_differences
from jaxdistill.run.workdir import at_rest, read_record


def is_beginning(
  old: Mapping[str, Any], config: ConfigDict, experiment: Experiment
) -> bool:
  """Tells whether a run would have begun as another one that is no longer than it.

  It would if only their lengths differ, and neither the initial state nor a step
  depends on the length: a constant learning rate does not, a cosine does. The programs
  are compared, so that every schedule and every method is judged by what it does.

  Args:
    old: configuration of the other run, as it is in `config.json`.
    config: of this run.
    experiment: of this run.
  """
  shorter = config.copy_and_resolve_references()
  try:
    shorter.update({key: old[key] for key in ("steps", "epochs")})
    if config_differences(old, shorter):
      return False
    before = build(shorter, experiment.dataset)
  except (KeyError, TypeError, ConfigError):
    return False
  if before.clock.total_steps > experiment.clock.total_steps:
    return False
  # When checkpoints are written changes nothing.
  for period in ("evaluate", "patience"):
    if getattr(before.periods, period) != getattr(experiment.periods, period):
      return False
  return before.program() == experiment.program()


class Fork(NamedTuple):
  """A state of another run.

  Attributes:
    state: the state, with the random key of this run.
    origin: where it comes from: path, step, config_digest.
    notes: what the user should know about it.
  """

  state: TrainState
  origin: dict[str, Any]
  notes: tuple[str, ...]


def fork_of(workdir: Path, fork: Path | None) -> Path | None:
  """Returns the run that a workdir starts from: the one given, or that it began with.

  Raises:
    ConfigError: if the workdir has begun otherwise.
  """
  if fork is not None:
    fork = fork.absolute()
    require(
      fork != workdir.absolute(), "--fork names the workdir itself: choose another"
    )
  if not (workdir / "config.json").exists():
    return fork
  origin = read_record(workdir / "config.json").get("forked_from")
  recorded = Path(origin["path"]) if origin else None
  require(
    fork in (None, recorded),
    f"workdir {workdir} holds a run that does not come from {fork}: choose another "
    "with --workdir",
  )
  return recorded


def read_fork(path: Path, config: ConfigDict, experiment: Experiment) -> Fork:
  """Reads the newest intact checkpoint of another run, which stays as it is.

  Args:
    path: workdir of that run.
    config: of this run.
    experiment: of this run.

  Raises:
    ConfigError: if there is none, or it is beyond the end of this run.
    CheckpointError: if it is of another shape, naming the differences.
    BusyError: if that run is not at rest.
  """
  require((path / "config.json").is_file(), f"--fork: {path} is no workdir of a run")
  there = read_record(path / "config.json")["config"]
  like = dataclasses.replace(experiment.state, intact={})
  if there.get("on_divergence") == "restart":
    like = dataclasses.replace(like, intact=like.cohort)
  with at_rest(path):
    restored = Checkpoints(path / "checkpoints").restore(like)
  require(restored is not None, f"--fork: {path} has no checkpoint")
  assert restored is not None
  state, manifest = restored
  step, total = manifest["step"], experiment.clock.total_steps
  require(
    step < total,
    f"--fork: {path} is at step {step}, and this run would end at {total}: raise steps "
    "or epochs",
  )

  notes = [f"starting from step {step} of {path}"]
  splits = ("seed", "holdout")
  if config.holdout and any(there.get(key) != config[key] for key in splits):
    notes.append(
      "warning: that run may have trained on examples that this one holds out"
    )
  key = jax.device_put(jax.random.key(config.seed), state.key.sharding)
  state = dataclasses.replace(state, key=key, intact={})
  origin = {
    "path": str(path),
    "step": step,
    "config_digest": manifest.get("config_digest"),
  }
  return Fork(state, origin, tuple(notes))
