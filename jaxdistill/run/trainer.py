"""Trains a cohort: `train(config, workdir)` is the loop around the compiled step."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import functools
import os
from pathlib import Path
import time
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdistill.core.types import Group, PyTree, TrainState
from jaxdistill.data import Split, Streamed
from jaxdistill.engine import sharding
from jaxdistill.engine.cohort import parameter_count
from jaxdistill.engine.dispatch import Dispatch, make_dispatch
from jaxdistill.engine.evaluate import Row, compile_eval, evaluate
from jaxdistill.engine.resident import (
  Delivered,
  Resident,
  delivered_shapes,
  put_resident,
)
from jaxdistill.engine.survey import Covered
from jaxdistill.errors import Preempted, foreign
from jaxdistill.run import hosts, member
from jaxdistill.run.alike import (
  require_same_config,
  require_same_data,
  require_shared,
)
from jaxdistill.run.background import Stopped, wait_for
from jaxdistill.run.build import Experiment, build
from jaxdistill.run.checkpoint import Checkpoints, remove_partial
from jaxdistill.run.config import ConfigDict, config_digest, network_keys
from jaxdistill.run.console import Console, counted, with_model
from jaxdistill.run.feed import Feed, Feeds, host_order, training_plans
from jaxdistill.run.history import History, Window
from jaxdistill.run.jax_settings import keep_programs, matmul_precision
from jaxdistill.run.lineage import Fork, fork_of, is_beginning, read_fork
from jaxdistill.run.logs import MetricLog, NoLog
from jaxdistill.run.manifest import write_json
from jaxdistill.run.profile import Profile
from jaxdistill.run.residency import settle, streamed_splits, that_fit
from jaxdistill.run.room import shortage_explained
from jaxdistill.run.saver import Saver
from jaxdistill.run.workdir import bind_config, locked


def _never() -> bool:
  return False


def _nothing() -> None:
  pass


def train(
  config: ConfigDict,
  workdir: str | os.PathLike,
  *,
  fork: str | os.PathLike | None = None,
  stop: Callable[[], bool] = _never,
  quiet: bool = False,
) -> dict[str, Any]:
  """Trains the cohort that a config describes.

  Continues from the workdir's newest intact checkpoint, if there is one.

  Args:
    config: from a config file's `get_config()`, or `jaxdistill.load_config`.
    workdir: directory for everything the run writes.
    fork: workdir of another run, whose newest intact checkpoint this one starts from;
      nothing is changed there.
    stop: called after every dispatch and while something is compiled or evaluated; when
      true, the state is saved and `Preempted` raised.
    quiet: print nothing.

  Returns:
    What is in `summary.json`: last and best metrics of every member and of the
      ensemble, and what the run was.

  Raises:
    JaxdistillError: one line about what is wrong; nothing has been compiled or, for
      errors in the config or the data, written.
  """
  started = time.perf_counter()
  # All processes of a run do the same; one of them speaks and writes.
  console = Console(quiet or not hosts.first())
  require_same_config(config)
  experiment = build(config)
  require_same_data(experiment)
  hosts.barrier("devices can be connected")
  sharding.connect(experiment.mesh)
  path = Path(workdir)
  checkpoints = Checkpoints(path / "checkpoints", config.keep_checkpoints)
  source = fork_of(path, Path(fork) if fork else None)
  forked = None
  if source and not hosts.from_first(checkpoints.exist()):
    forked = read_fork(source, config, experiment)

  def goes_on(old: dict[str, Any]) -> bool:
    found = is_beginning(old, config, experiment)
    if found:
      console.say(
        f"the run in {path} goes on to step {experiment.clock.total_steps}: what has "
        "been trained there is the same in a run of this length"
      )
    return found

  with contextlib.ExitStack() as stack:
    require_in_place = hosts.on_first(lambda: stack.enter_context(locked(path)))
    require_shared(path)
    stack.enter_context(shortage_explained(config, experiment.state))
    stack.enter_context(matmul_precision(config.matmul_precision))

    def prepare() -> set[str]:
      digests = bind_config(
        path, config, goes_on=goes_on, origin=forked.origin if forked else None
      )
      remove_partial(path / "checkpoints", *(path / "members").glob("*"))
      warning = checkpoints.require_room(experiment.saved_state)
      if warning:
        console.say(warning)
      return digests

    digests = hosts.on_first(prepare)
    if config.compilation_cache:
      warning = keep_programs()
      if warning:
        console.say(warning)
    feeds = Feeds(experiment.mesh, console.say)
    stack.callback(feeds.close)
    step, total = 0, experiment.clock.total_steps
    try:
      start = _start(experiment, checkpoints, digests, forked, console, stop)
      step = start.history.step
      to_read = that_fit(experiment, config.resident_bytes)
      if step < total:
        experiment = settle(experiment, to_read, feeds, console, stop)
        to_read = []
    except Stopped:
      raise _preempted(path, step, total) from None
    run = _Run(
      experiment=experiment,
      config=config,
      path=path,
      require_in_place=require_in_place or _nothing,
      saver=Saver(checkpoints),
      feeds=feeds,
      console=console,
      start=start,
      stop=stop,
      started=started,
    )
    with contextlib.closing(run.log), run.saver, run.profile:
      run.train()

    files = _member_files(
      run.history.active, experiment, config, run.state, run.history
    )
    _save_members(files, path, which="last")
    summary = _summarize(experiment, config, run.state, run.history, run.log)
    streamed = streamed_splits(experiment.dataset)
    summary["streamed"] = [name for name in streamed if name not in to_read]
    faulty = feeds.faulty()
    if faulty:
      summary["faulty"] = faulty
    summary = hosts.from_first(summary)
    hosts.on_first(lambda: write_json(path / "summary.json", summary))
    seconds = time.perf_counter() - started
    console.closing_table(
      summary, experiment.method.columns, str(path), seconds, experiment.task
    )
    return summary


class _Start(NamedTuple):
  """What a run starts from.

  Attributes:
    state: the train state.
    intact: copies that members may be restarted from.
    history: what was measured until then.
    saved: whether a checkpoint of this run holds it.
  """

  state: TrainState
  intact: dict[str, Group]
  history: History
  saved: bool


def _start(
  experiment: Experiment,
  checkpoints: Checkpoints,
  digests: Container[str] | None,
  forked: Fork | None,
  console: Console,
  stop: Callable[[], bool],
) -> _Start:
  """Returns state and history of the newest intact checkpoint, or fresh ones.

  Raises:
    Stopped: while it compiles.
  """
  new_history = functools.partial(
    History,
    experiment.members,
    experiment.method.columns,
    select_on=experiment.select_on,
    selecting=experiment.task.selecting.name,
  )
  restored = checkpoints.restore(experiment.saved_state, digests)
  if restored:
    state, manifest = restored
    console.say(f"resuming from the checkpoint of step {manifest['step']}")
    return _Start(
      state=dataclasses.replace(state, intact={}),
      intact=state.intact,
      history=new_history(manifest["history"]),
      saved=True,
    )

  history = new_history()
  if forked:
    for note in forked.notes:
      console.say(note)
    state = forked.state
    history.start_from(forked.origin)
  else:
    for note in experiment.notes:
      console.say(note)
    with console.timed("Initialising the cohort"):
      state = wait_for(lambda: jax.block_until_ready(experiment.init()), stop)
  intact = experiment.watch.copies(state)
  return _Start(state=state, intact=intact, history=history, saved=False)


def _preempted(path: Path, step: int, total: int) -> Preempted:
  """Returns the error that ends a run which was asked to stop; its state is saved."""
  what = "state saved" if step else "before anything was trained"
  return Preempted(
    f"stopped at step {step} of {total}, {what}: run the same command with "
    f"--workdir={path} to go on"
  )


class _Run:
  """A run in its workdir: trains, and does what is due between two dispatches.

  Attributes:
    state: the train state.
    history: what has been measured.
    log: of the metrics.
    saver: of the checkpoints.
    profile: of the first steps.
  """

  def __init__(
    self,
    *,
    experiment: Experiment,
    config: ConfigDict,
    path: Path,
    require_in_place: Callable[[], None],
    saver: Saver,
    feeds: Feeds,
    console: Console,
    start: _Start,
    stop: Callable[[], bool],
    started: float,
  ):
    """Opens the log; nothing is compiled yet."""
    self._experiment = experiment
    self._config = config
    self._path = path
    self._require_in_place = require_in_place
    self.saver = saver
    self.profile = Profile(path / "profile", config.profile_steps, console.say)
    self._console = console
    self._stop = stop
    self.state = start.state
    self.history = start.history
    self._intact = start.intact
    self._saved = start.saved
    self._logged = start.history.step
    self._runner = _Runner(experiment, config.batch_size, feeds, console, stop)
    self._loss: float | None = None
    open_log = functools.partial(
      MetricLog,
      path,
      self.history.step,
      evaluated=not self._owes_an_evaluation(),
      started=started,
    )
    self.log = hosts.on_first(open_log) or NoLog()

  @property
  def _ended(self) -> bool:
    return self.history.step == self._experiment.clock.total_steps

  @property
  def _epoch(self) -> float:
    return self.history.step / self._experiment.clock.steps_per_epoch

  def _owes_an_evaluation(self) -> bool:
    """Tells whether the present step is to be evaluated, and has not been."""
    due = self.history.step % self._experiment.periods.evaluate == 0
    return (due or self._ended) and self.history.evaluated != self.history.step

  def train(self) -> None:
    """Trains to the end.

    Raises:
      Preempted: if the run is to stop before; its state is saved.
      DivergedError: if no member is updated any more.
    """
    try:
      if self.history.origin and not self._saved:
        # From here on, this run depends on the other one no more.
        self._save()
      # The process before was stopped while it evaluated.
      if self._owes_an_evaluation():
        self._evaluate()
        self._save()
      with self._runner.training(self.state, self.history.step):
        while not self._ended:
          self._advance()
    except Stopped:
      step, total = self.history.step, self._experiment.clock.total_steps
      if step and not self._saved:
        self._save()
      self.saver.wait()
      raise _preempted(self._path, step, total) from None

  def _advance(self) -> None:
    """Runs one dispatch, then what is due after it; all of it at the end of the run."""
    runner, periods = self._runner, self._experiment.periods
    self.saver.check()
    # Before anything changes the state: a run may be stopped while it waits.
    runner.await_batch()
    self.state = runner.before_epoch(self.state, self.history.step)
    self.profile.before_dispatch(self.state, self.history.step)
    self.state = runner.dispatch(self.state)
    hosts.getting_on()
    self.history.step += runner.steps_per_dispatch
    self._saved = False

    step = self.history.step
    evaluating = self._owes_an_evaluation()
    saving = self._ended or step % periods.checkpoint == 0
    if evaluating or saving or step % periods.log == 0:
      self._log_training()
    self._console.advance(step, runner.images_per_second, self._loss)
    if self._experiment.watch.due(step) or self._ended:
      self._look_after_members()
    if evaluating:
      self._evaluate()
    if saving:
      self._save()
    if not self._ended and self._stop():
      raise Stopped

  def _log_training(self) -> None:
    """Writes the line of the steps since the last one, if there are any."""
    step = self.history.step
    if self._logged == step:
      return
    self._require_in_place()
    window = Window()
    self._runner.collect(window)
    self.history.add_training(window)
    values = window.values(self._experiment.members)
    self._loss = window.average("loss")
    self.log.write(
      step,
      self._epoch,
      "train",
      values,
      images_per_second=self._runner.images_per_second,
      waiting=self._runner.waiting,
    )
    _report_skipped(values, self.history.active, step, self._console)
    self._logged = step

  def _look_after_members(self) -> None:
    """Quarantines or restarts members that have diverged.

    Raises:
      DivergedError: if all of them have.
    """
    history, watch = self.history, self._experiment.watch
    step = history.step
    watch.require_updates(self.state, step)
    if not watch.due(step):
      return
    decision = watch.decide(self.state, self._intact)
    self.state = decision.state
    self._intact = decision.intact
    events = {}
    why = f"had no finite update for {self._experiment.periods.patience} steps"
    for name in decision.quarantined:
      history.quarantined[name] = step
      events[f"quarantined/{name}"] = 1.0
      self._console.say(
        f"warning: step {step}: {name} {why} and is quarantined: it is not trained any "
        "more, teaches nobody and is not exported"
      )
    for name in decision.restarted:
      events[f"restarted/{name}"] = 1.0
      self._console.say(
        f"warning: step {step}: {name} {why} and is restarted from its state of step "
        f"{history.intact.get(name, history.start)}"
      )
    for name in decision.saved:
      history.intact[name] = step
    if events:
      self.log.write(step, self._epoch, "events", events)

  def _evaluate(self) -> None:
    """Measures the cohort, and writes who has become better than before."""
    history, runner = self.history, self._runner
    speed = runner.images_per_second
    measured = runner.evaluate(self.state)
    improved = history.add_evaluation(measured["test"], measured.get("holdout"))
    self._saved = False
    for split, rows in measured.items():
      values = _flatten(rows)
      missing = runner.left_out[split]
      if missing:
        values["left_out"] = missing
        self._console.say(
          f"warning: step {history.step}: {missing} examples of {split} could not be "
          "read and are left out of what is measured"
        )
      self.log.write(history.step, self._epoch, split, values)
    self._console.evaluation(
      step=history.step,
      total=self._experiment.clock.total_steps,
      epoch=self._epoch,
      loss=self._loss,
      images_per_second=speed,
      rows=measured["test"],
      task=self._experiment.task,
    )
    files = _member_files(improved, self._experiment, self._config, self.state, history)
    _save_members(files, self._path, which="best")
    runner.restart_clock()

  def _save(self) -> None:
    """Begins to write a checkpoint of everything until now."""
    self._log_training()
    # That may take long, and another place must not be begun.
    self.saver.wait()
    self._require_in_place()
    self.saver.save(
      dataclasses.replace(self.state, intact=self._intact),
      self.history.step,
      history=self.history.to_dict(),
      config_digest=config_digest(self._config),
    )
    self._saved = True


class _Runner:
  """What lives on the devices while a run trains: the data and the compiled functions.

  A dispatch runs ahead of the host by one: its metrics are fetched when they are
  logged.

  Attributes:
    steps_per_dispatch: steps that one runs.
    left_out: split -> examples that the last evaluation of it could not read.
  """

  def __init__(
    self,
    experiment: Experiment,
    batch_size: int,
    feeds: Feeds,
    console: Console,
    stop: Callable[[], bool],
  ):
    """Prepares a run; the data moves to the devices when it is first needed."""
    self._experiment = experiment
    self._batch_size = batch_size
    self._feeds = feeds
    self._console = console
    self._stop = stop
    self._dispatch: Dispatch | None = None
    self.steps_per_dispatch = 0
    self.left_out: dict[str, int] = {}
    self._feed: Feed | None = None
    self._batch: Delivered | None = None
    self._waited_before = 0.0
    self._evals: dict[type, Callable] = {}
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
    if isinstance(self._experiment.dataset.train, Streamed):
      self._feed = self._start_feed(self._experiment.dataset.train, state, step)
    self._compile(state, step)
    with self._console.progress(step, total):
      yield

  def _start_feed(self, train: Streamed, state: TrainState, step: int) -> Feed:
    """Starts to read the batches from `step` to the end of the run."""
    clock, mesh = self._experiment.clock, self._experiment.mesh
    plans = training_plans(
      host_order(state.key, mesh, self._experiment.sampler),
      batch_size=self._batch_size,
      steps_per_epoch=clock.steps_per_epoch,
      start=step,
      stop=clock.total_steps,
      seed=self._experiment.seed,
    )
    return self._feeds.training(train, plans, self._batch_size)

  @functools.cached_property
  def _train(self) -> Resident:
    """The training split, where it lives on the devices."""
    train = self._experiment.dataset.train
    assert isinstance(train, Split), "a streamed split has a feed"
    return self._place(train)

  @functools.cached_property
  def _splits(self) -> dict[str, Covered]:
    """Those that surveys cover, by their names."""
    dataset = self._experiment.dataset
    surveyed = {survey.split for survey in self._experiment.method.surveys}
    splits: dict[str, Covered] = {}
    if "train" in surveyed:
      train = dataset.train
      if isinstance(train, Streamed):
        if train.varies or train.shape != dataset.test.shape:
          train = train.for_evaluation(dataset.test.shape)
        splits["train"] = self._feeds.covered("train", train)
      else:
        splits["train"] = self._train
    if dataset.holdout and "holdout" in surveyed:
      if isinstance(dataset.holdout, Streamed):
        splits["holdout"] = self._feeds.covered("holdout", dataset.holdout)
      else:
        splits["holdout"] = self._place(dataset.holdout)
    return splits

  @functools.cached_property
  def _evaluated(self) -> Resident:
    """All examples that are evaluated and not streamed, split behind split."""
    splits = []
    for split in _evaluated_splits(self._experiment).values():
      if isinstance(split, Split):
        splits.append(split)
    image = np.concatenate([split.image for split in splits])
    label = np.concatenate([split.label for split in splits])
    return self._place(Split(image=image, label=label))

  def _place(self, split: Split) -> Resident:
    """Copies a split to the devices."""
    return put_resident(self._experiment.mesh, split.image, split.label)

  def _compile(self, state: TrainState, step: int) -> None:
    """Compiles the step of a run that begins or goes on at `step`."""
    experiment, console = self._experiment, self._console
    count = experiment.steps_per_dispatch(step)
    if count < min(10, experiment.max_steps_per_dispatch):
      console.say(
        "note: the steps of log_every, eval_every, checkpoint_every, patience, an "
        f"epoch and the run have only {count} as a common divisor, so a dispatch runs "
        "no more; '0.1 epochs' and the like allow more"
      )
    dispatch = make_dispatch(
      experiment.train_step,
      experiment.mesh,
      batch_size=self._batch_size,
      # A batch that was read is all there is to take it from.
      steps_per_epoch=1 if self._feed else experiment.clock.steps_per_epoch,
      steps_per_dispatch=count,
    )
    with console.timed(f"Compiling the train step ({self._describe(count)})"):
      if self._feed:
        shape = experiment.dataset.train.shape
        train = delivered_shapes(experiment.mesh, self._batch_size, shape)
        order = train.index
      else:
        train = self._train
        order = self._epoch_order(state, 0)

      def compile_step() -> Dispatch:
        with foreign("the train step cannot be made"):
          lowered = dispatch.lower(state, train, order)
        return lowered.compile()

      self._dispatch = wait_for(compile_step, self._stop)
    self.steps_per_dispatch = count
    self.restart_clock()

  def _describe(self, steps_per_dispatch: int) -> str:
    """Returns what is compiled, for the console."""
    models = self._experiment.models
    groups = []
    for spec in self._experiment.specs:
      groups.append(f"{spec.size} {with_model(spec.name, models[spec.name])}")
    cohort = " + ".join(groups)
    mesh = self._experiment.mesh
    devices = counted(mesh.size, f"{sharding.platform_of(mesh)} device")
    steps = counted(steps_per_dispatch, "step")
    return f"{cohort}, batch {self._batch_size}, {devices}, {steps} per dispatch"

  def _epoch_order(self, state: TrainState, epoch: int) -> jax.Array:
    return self._draw_order(state.key, epoch)

  @functools.cached_property
  def _draw_order(self) -> Callable[[jax.Array, int], jax.Array]:
    """The sampler, whose result is on every device."""
    everywhere = sharding.replicated(self._experiment.mesh)
    return jax.jit(self._experiment.sampler, out_shardings=everywhere)

  def before_epoch(self, state: TrainState, step: int) -> TrainState:
    """Draws the epoch's order, and makes the method's surveys, where an epoch begins.

    What comes of the surveys is in the next checkpoint.
    """
    epoch, position = divmod(step, self._experiment.clock.steps_per_epoch)
    if not self._feed and (position == 0 or self._order is None):
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

      # Its functions donate what they collect, never the state: that can be saved if
      # the survey does not come to its end.
      def run() -> TrainState:
        return jax.block_until_ready(surveyor.run(state, self._splits, epoch))

      state = wait_for(run, self._stop)
      self._surveyed = True
      return state

  def await_batch(self) -> None:
    """Waits for the images of the next step, where they are streamed.

    Raises:
      Stopped: if the run is to stop. Of several processes none may stop alone.
    """
    if not self._feed:
      return
    hosts.getting_on()
    stop = self._stop
    if hosts.several():
      stop = _never
    self._batch = self._feed.next(stop)

  def dispatch(self, state: TrainState) -> TrainState:
    """Starts one dispatch, and waits for the one before it to end."""
    assert self._dispatch is not None, "enter training first"
    if self._batch:
      split, order = self._batch, self._batch.index
    else:
      split, order = self._train, self._order
    state, measured = self._dispatch(state, split, order)
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

  @property
  def waiting(self) -> float | None:
    """Fraction of that time in which it waited for images; None if they live here."""
    if not self._feed:
      return None
    seconds = time.perf_counter() - self._timed_since
    return (self._feed.waited - self._waited_before) / seconds

  def restart_clock(self) -> None:
    """Measures the speed anew: what happened until now was not training."""
    if self._feed:
      self._waited_before = self._feed.waited
    self._timed_steps = 0
    self._timed_since = time.perf_counter()

  def evaluate(self, state: TrainState) -> dict[str, dict[str, Row]]:
    """Measures the test split, and the held-out one if best weights are chosen there.

    Returns:
      Split -> name -> values: members in member order, then predictions.

    Raises:
      Stopped: before it has come to its end.
    """
    experiment = self._experiment
    measured = {}
    start = 0
    for name, examples in _evaluated_splits(experiment).items():
      count = len(examples.label)
      if isinstance(examples, Streamed):
        split = self._feeds.covered(name, examples)
        parts = split.parts(experiment.eval_batch_size)
      else:
        parts = self._evaluated.parts(experiment.eval_batch_size, start, count)
        start += count
      measure = functools.partial(
        evaluate,
        self._compiled_eval(state, examples),
        state,
        parts,
        experiment.mesh,
        experiment.task,
      )
      rows, num_measured = wait_for(measure, self._stop)
      members = {member: rows.pop(member) for member in experiment.members}
      measured[name] = members | rows
      self.left_out[name] = count - num_measured
    return measured

  def _compiled_eval(self, state: TrainState, examples: Split | Streamed) -> Callable:
    """Returns the evaluation step for splits of one kind, compiled when first wanted.

    Raises:
      Stopped: while it compiles.
    """
    experiment = self._experiment
    batch_size = experiment.eval_batch_size
    kind = type(examples)
    if kind not in self._evals:
      if isinstance(examples, Streamed):
        split = delivered_shapes(experiment.mesh, batch_size, examples.shape)
      else:
        split = self._evaluated
      compile_here = functools.partial(
        compile_eval, experiment.eval_step, state, split, batch_size
      )
      with self._console.timed(f"Compiling the evaluation (batch {batch_size})"):
        self._evals[kind] = wait_for(compile_here, self._stop)
    return self._evals[kind]


def _evaluated_splits(experiment: Experiment) -> dict[str, Split | Streamed]:
  """Returns the splits that are evaluated."""
  splits: dict[str, Split | Streamed] = {"test": experiment.dataset.test}
  if experiment.select_on == "holdout":
    assert experiment.dataset.holdout, "build has checked that"
    splits["holdout"] = experiment.dataset.holdout
  return splits


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
  """Warns of members, and of shared modules, that skipped updates."""
  skipped = {name: values[f"skipped/{name}"] for name in members}
  skipped["what the method trains for all"] = values.get("skipped_shared", 0.0)
  for name, fraction in skipped.items():
    if fraction:
      console.say(
        f"warning: step {step}: {name} skipped {100 * fraction:.0f} % of the updates "
        "since the last line, its loss or gradient was not finite"
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
      "select_on": history.select_on,
      "model": network_keys(config.cohort[group]),
      "dtype": config.dtype,
      "num_classes": dataset.num_classes,
      "class_names": dataset.class_names,
      "mean": experiment.normalizations[name].mean,
      "std": experiment.normalizations[name].std,
      "image_shape": dataset.test.shape,
    }
    files[name] = _MemberFile({"params": params, **stats}, manifest)
  return files


def _save_members(files: Mapping[str, _MemberFile], path: Path, *, which: str) -> None:
  """Writes members as `members/<member>/<which>`."""
  for name, file in files.items():
    member.save(path / "members" / name / which, file.variables, file.manifest)


def _summarize(
  experiment: Experiment,
  config: ConfigDict,
  state: TrainState,
  history: History,
  log: MetricLog | NoLog,
) -> dict[str, Any]:
  """Returns what is in `summary.json`."""
  models = {}
  for spec in experiment.specs:
    for name in spec.members:
      models[name] = experiment.models[spec.name]
  summary = history.summary(_parameter_counts(experiment, state), models)
  if log.waiting is not None:
    summary["waiting"] = log.waiting
  return summary | {
    "method": config.method.name,
    "config_digest": config_digest(config),
    "seed": config.seed,
    "data": experiment.dataset.name,
    "class_names": list(experiment.dataset.class_names),
    "seconds": log.seconds,
  }


def _parameter_counts(experiment: Experiment, state: TrainState) -> dict[str, int]:
  """Returns member -> number of its parameters."""
  counts = {}
  for spec in experiment.specs:
    for name in spec.members:
      counts[name] = parameter_count(state.cohort[spec.name])
  return counts
