"""States that a run may start from, besides its own: a shorter run's, another run's."""

from collections.abc import Mapping
import contextlib
import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxdistill.core.types import TrainState
from jaxdistill.errors import ConfigError, require
from jaxdistill.run import hosts
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

  def look() -> str | None:
    if not (workdir / "config.json").exists():
      return str(fork) if fork else None
    origin = read_record(workdir / "config.json").get("forked_from")
    recorded = Path(origin["path"]) if origin else None
    require(
      fork in (None, recorded),
      f"workdir {workdir} holds a run that does not come from {fork}: choose another "
      "with --workdir",
    )
    return str(recorded) if recorded else None

  found = hosts.from_first(hosts.on_first(look))
  return Path(found) if found else None


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

  def look() -> dict[str, Any]:
    require((path / "config.json").is_file(), f"--fork: {path} is no workdir of a run")
    return read_record(path / "config.json")["config"]

  there = hosts.from_first(hosts.on_first(look))
  assert there is not None
  like = dataclasses.replace(experiment.state, intact={})
  if there.get("on_divergence") == "restart":
    like = dataclasses.replace(like, intact=like.cohort)
  with contextlib.ExitStack() as stack:
    hosts.on_first(lambda: stack.enter_context(at_rest(path)))
    restored = Checkpoints(path / "checkpoints").restore(like)
    hosts.barrier("the fork is read")
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
  splits = ("seed", "holdout", "examples_per_class")
  if config.holdout and any(there.get(key, 0) != config[key] for key in splits):
    notes.append(
      "warning: that run may have trained on examples that this one holds out"
    )
  new_key = jax.jit(jax.random.key, static_argnums=0, out_shardings=state.key.sharding)
  key = new_key(config.seed)
  state = dataclasses.replace(state, key=key, intact={})
  origin = {
    "path": str(path),
    "step": step,
    "config_digest": manifest.get("config_digest"),
  }
  return Fork(state, origin, tuple(notes))
