"""Trains a cohort: `train(config, workdir)` is the loop around the compiled step."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
import contextlib
import functools
import os
from pathlib import Path
import time
from typing import Any, NamedTuple

import jax

from jaxdistill.core.types import PyTree, TrainState
from jaxdistill.engine import sharding
from jaxdistill.engine.cohort import parameter_count
from jaxdistill.engine.dispatch import (
  Dispatch,
  common_period,
  epoch_order,
  make_dispatch,
)
from jaxdistill.engine.evaluate import Row, compile_eval, evaluate
from jaxdistill.errors import DivergedError, Preempted, foreign
from jaxdistill.run import member
from jaxdistill.run.build import Experiment, build
from jaxdistill.run.checkpoint import Checkpoints, remove_partial
from jaxdistill.run.config import ConfigDict, config_digest, network_keys
from jaxdistill.run.console import Console
from jaxdistill.run.history import History, Window
from jaxdistill.run.logs import MetricLog
from jaxdistill.run.manifest import write_json
from jaxdistill.run.room import shortage_explained
from jaxdistill.run.workdir import bind_config, locked


def _never() -> bool:
  return False


def train(
  config: ConfigDict,
  workdir: str | os.PathLike,
  *,
  stop: Callable[[], bool] = _never,
  quiet: bool = False,
) -> dict[str, Any]:
  """Trains the cohort that a config describes.

  Continues from the workdir's newest intact checkpoint, if there is one.

  Args:
    config: from a config file's `get_config()`, or `jaxdistill.load_config`.
    workdir: directory for everything the run writes.
    stop: called after every dispatch; when true, the state is saved and `Preempted`
      raised.
    quiet: print nothing.

  Returns:
    What is in `summary.json`: last and best metrics of every member and of the
      ensemble.

  Raises:
    JaxdistillError: one line about what is wrong; nothing has been compiled or, for
      errors in the config or the data, written.
  """
  started = time.perf_counter()
  console = Console(quiet)
  experiment = build(config)
  clock, periods = experiment.clock, experiment.periods
  path = Path(workdir)
  with contextlib.ExitStack() as stack:
    require_in_place = stack.enter_context(locked(path))
    stack.enter_context(shortage_explained(config, experiment.state))
    digests = bind_config(path, config)
    remove_partial(path / "checkpoints", *(path / "members").glob("*"))
    checkpoints = Checkpoints(path / "checkpoints", config.keep_checkpoints)
    warning = checkpoints.require_room(experiment.state)
    if warning:
      console.say(warning)
    state, history = _start(experiment, checkpoints, digests, console)
    log = stack.enter_context(contextlib.closing(MetricLog(path, history.step)))

    runner = _Runner(experiment, config.batch_size, console)
    window = Window()
    with runner.training(state, history.step):
      while history.step < clock.total_steps:
        state = runner.before_epoch(state, history.step)
        state = runner.dispatch(state)
        history.step += runner.steps_per_dispatch
        speed = runner.images_per_second
        console.advance(history.step, speed)

        # What is due after this dispatch; all of it at the end of the run.
        ended = history.step == clock.total_steps
        stopping = stop() and not ended
        evaluating = ended or history.step % periods.evaluate == 0
        saving = ended or stopping or history.step % periods.checkpoint == 0
        logging = evaluating or saving or history.step % periods.log == 0

        epoch = history.step / clock.steps_per_epoch
        if logging:
          require_in_place()
          runner.collect(window)
          history.add_training(window)
          values = window.values(experiment.members)
          log.write(history.step, epoch, "train", values)
          _report_skipped(values, experiment.members, history.step, console)
          window = Window()
        if evaluating:
          rows = runner.evaluate(state)
          improved = history.add_evaluation(rows)
          log.write(history.step, epoch, "test", _flatten(rows))
          console.evaluation(
            step=history.step,
            total=clock.total_steps,
            epoch=epoch,
            images_per_second=speed,
            rows=rows,
          )
          files = _member_files(improved, experiment, config, state, history)
          _save_members(files, path, which="best")
          runner.restart_clock()
        if saving:
          checkpoints.save(
            state,
            history.step,
            history=history.to_dict(),
            config_digest=config_digest(config),
          )
        if stopping:
          raise Preempted(
            f"stopped at step {history.step} of {clock.total_steps}, state saved: run "
            f"the same command with --workdir={path} to go on"
          )

    files = _member_files(experiment.members, experiment, config, state, history)
    _save_members(files, path, which="last")
    summary = history.summary(_parameter_counts(experiment, state))
    summary |= {"method": config.method.name, "config_digest": config_digest(config)}
    write_json(path / "summary.json", summary)
    seconds = time.perf_counter() - started
    console.closing_table(summary, experiment.method.columns, str(path), seconds)
    return summary


def _start(
  experiment: Experiment,
  checkpoints: Checkpoints,
  digests: Container[str],
  console: Console,
) -> tuple[TrainState, History]:
  """Returns state and history of the newest intact checkpoint, or fresh ones."""
  columns = experiment.method.columns
  restored = checkpoints.restore(experiment.state, digests)
  if restored:
    state, manifest = restored
    console.say(f"resuming from the checkpoint of step {manifest['step']}")
    return state, History(experiment.members, columns, manifest["history"])
  for note in experiment.notes:
    console.say(note)
  with console.timed("Initialising the cohort"):
    state = jax.block_until_ready(experiment.init())
  return state, History(experiment.members, columns)


class _Runner:
  """What lives on the devices while a run trains: the data and the compiled functions.

  A dispatch runs ahead of the host by one: its metrics are fetched when they are
  logged.
  """

  def __init__(self, experiment: Experiment, batch_size: int, console: Console):
    """Prepares a run; the data moves to the devices when it is first needed."""
    self._experiment = experiment
    self._batch_size = batch_size
    self._console = console
    self._dispatch: Dispatch | None = None
    self.steps_per_dispatch = 0
    self._eval: Callable | None = None
    self._surveyed = False
    self._order: jax.Array | None = None
    self._pending: list = []
    self._timed_steps = 0
    self._timed_since = time.perf_counter()

  @contextlib.contextmanager
  def training(self, state: TrainState, step: int) -> Iterator[None]:
    """Compiles the step and shows the progress, if there are steps left."""
    total = self._experiment.clock.total_steps
    if step == total:
      yield
      return
    self._compile(state, step)
    with self._console.progress(step, total):
      yield

  @functools.cached_property
  def _splits(self) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Name -> (image uint8[N, H, W, 3], label i32[N]) on the devices."""
    dataset, mesh = self._experiment.dataset, self._experiment.mesh
    splits = {"train": dataset.train, "test": dataset.test, "holdout": dataset.holdout}
    placed = {}
    for name, split in splits.items():
      if split is not None:
        placed[name] = sharding.put_replicated(mesh, (split.image, split.label))
    return placed

  def _compile(self, state: TrainState, step: int) -> None:
    """Compiles the step.

    A dispatch runs as many steps as all periods, and the step of the start, allow.
    """
    experiment, console = self._experiment, self._console
    clock, periods = experiment.clock, experiment.periods
    limit = experiment.max_steps_per_dispatch
    lengths = (periods.log, periods.evaluate, periods.checkpoint, *clock, step)
    count = common_period(lengths, limit)
    if count < min(10, limit):
      console.say(
        "note: the steps of log_every, eval_every, checkpoint_every, an epoch and "
        f"the run have only {count} as a common divisor, so a dispatch runs no more; "
        "'0.1 epochs' and the like allow more"
      )
    dispatch = make_dispatch(
      experiment.train_step,
      experiment.mesh,
      batch_size=self._batch_size,
      steps_per_epoch=clock.steps_per_epoch,
      steps_per_dispatch=count,
    )
    with console.timed(f"Compiling the train step ({self._describe(count)})"):
      train = self._splits["train"]
      order = self._epoch_order(state, 0)
      with foreign("the train step cannot be made"):
        lowered = dispatch.lower(state, *train, order)
      self._dispatch = lowered.compile()
    self.steps_per_dispatch = count
    self.restart_clock()

  def _describe(self, steps_per_dispatch: int) -> str:
    """Returns what is compiled, for the console."""
    cohort = " + ".join(f"{spec.size} {spec.name}" for spec in self._experiment.specs)
    devices = _counted(self._experiment.mesh.size, f"{jax.default_backend()} device")
    steps = _counted(steps_per_dispatch, "step")
    return f"{cohort}, batch {self._batch_size}, {devices}, {steps} per dispatch"

  def _epoch_order(self, state: TrainState, epoch: int) -> jax.Array:
    num_examples = len(self._experiment.dataset.train.label)
    order = epoch_order(state.key, epoch, num_examples)
    return jax.device_put(order, sharding.replicated(self._experiment.mesh))

  def before_epoch(self, state: TrainState, step: int) -> TrainState:
    """Draws the epoch's order, and makes the method's surveys, where an epoch begins.

    What comes of the surveys is in the next checkpoint.
    """
    epoch, position = divmod(step, self._experiment.clock.steps_per_epoch)
    if position and self._order is not None:
      return state
    self._order = self._epoch_order(state, epoch)
    surveyor = self._experiment.surveyor
    if position or not surveyor.due(epoch):
      return state
    with contextlib.ExitStack() as stack:
      if not self._surveyed:
        what = (
          f"Compiling and making the method's first survey, before epoch {epoch + 1}"
        )
        stack.enter_context(self._console.timed(what))
      self._surveyed = True
      return jax.block_until_ready(surveyor.run(state, self._splits, epoch))

  def dispatch(self, state: TrainState) -> TrainState:
    """Starts one dispatch, and waits for the one before it to end."""
    assert self._dispatch is not None, "enter training first"
    state, measured = self._dispatch(state, *self._splits["train"], self._order)
    if self._pending:
      # One dispatch ahead is enough to keep the device busy.
      jax.block_until_ready(self._pending[-1])
    self._pending.append(measured)
    self._timed_steps += self.steps_per_dispatch
    return state

  def collect(self, window: Window) -> None:
    """Moves the metrics of all dispatches since the last time into the window."""
    for means in jax.device_get(self._pending):
      window.add(means)
    self._pending = []

  @property
  def images_per_second(self) -> float:
    """Training speed since the clock was restarted."""
    seconds = time.perf_counter() - self._timed_since
    return self._timed_steps * self._batch_size / seconds

  def restart_clock(self) -> None:
    """Measures the speed anew: what happened until now was not training."""
    self._timed_steps = 0
    self._timed_since = time.perf_counter()

  def evaluate(self, state: TrainState) -> dict[str, Row]:
    """Measures the test split: members in member order, then predictions."""
    experiment = self._experiment
    batch_size = experiment.eval_batch_size
    image, label = self._splits["test"]
    if self._eval is None:
      with self._console.timed(f"Compiling the evaluation (batch {batch_size})"):
        self._eval = compile_eval(experiment.eval_step, state, image, label, batch_size)
    rows = evaluate(
      self._eval, state, image, label, num_examples=len(label), batch_size=batch_size
    )
    members = {name: rows.pop(name) for name in experiment.members}
    return members | rows


def _counted(number: int, noun: str) -> str:
  """Returns "1 step", "2 steps"."""
  return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _flatten(rows: dict[str, Row]) -> dict[str, float]:
  """Returns `<measure>/<name>` -> value."""
  values = {}
  for name, row in rows.items():
    for measure, value in row.items():
      values[f"{measure}/{name}"] = value
  return values


def _report_skipped(
  values: Mapping[str, float], members: Sequence[str], step: int, console: Console
) -> None:
  """Warns of members whose updates were skipped since the last line.

  Raises:
    DivergedError: if no member was updated at all.
  """
  skipped = {name: values[f"skipped/{name}"] for name in members}
  for name, fraction in skipped.items():
    if fraction:
      console.say(
        f"warning: step {step}: {name} skipped {100 * fraction:.0f} % of the updates "
        "since the last line, its loss or gradient was not finite"
      )
  if all(fraction == 1 for fraction in skipped.values()):
    raise DivergedError(
      f"step {step}: no member has a finite update any more: lower "
      "optimizer.learning_rate or set optimizer.clip_norm; the last checkpoint is "
      "finite"
    )


class _MemberFile(NamedTuple):
  """What is written of one member: see `member.save`."""

  variables: PyTree
  manifest: dict[str, Any]


def _member_files(
  names: Sequence[str],
  experiment: Experiment,
  config: ConfigDict,
  state: TrainState,
  history: History,
) -> dict[str, _MemberFile]:
  """Returns what is written of those members among `names` that are exported.

  The method's own modules stay behind.
  """
  dataset = experiment.dataset
  files = {}
  for name in experiment.method.exported(experiment.members):
    if name not in names:
      continue
    group, _, k = name.rpartition(".")
    params, stats = jax.tree.map(
      lambda x, k=int(k): x[k], state.cohort[group].evaluated
    )
    manifest = {
      "step": history.step,
      "metrics": history.last[name],
      "model": network_keys(config.cohort[group]),
      "dtype": config.dtype,
      "num_classes": dataset.num_classes,
      "class_names": dataset.class_names,
      "mean": dataset.mean,
      "std": dataset.std,
    }
    files[name] = _MemberFile({"params": params, **stats}, manifest)
  return files


def _save_members(files: Mapping[str, _MemberFile], path: Path, *, which: str) -> None:
  """Writes members as `members/<member>/<which>`."""
  for name, file in files.items():
    member.save(path / "members" / name / which, file.variables, file.manifest)


def _parameter_counts(experiment: Experiment, state: TrainState) -> dict[str, int]:
  """Returns member -> number of its parameters."""
  counts = {}
  for spec in experiment.specs:
    for name in spec.members:
      counts[name] = parameter_count(state.cohort[spec.name])
  return counts
