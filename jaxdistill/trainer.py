"""Trains a cohort: `train(config, workdir)` is the loop around the compiled step."""

from collections.abc import Callable
import contextlib
import math
import os
from pathlib import Path
import time
from typing import Any

import jax
import numpy as np

from jaxdistill import checkpoint, optim, sharding
from jaxdistill import cohort as cohort_lib
from jaxdistill import config as config_lib
from jaxdistill import step as step_lib
from jaxdistill.build import Experiment, build
from jaxdistill.checkpoint import Checkpoints
from jaxdistill.console import Console
from jaxdistill.errors import DivergedError, Preempted
from jaxdistill.evaluate import compile_eval, evaluate
from jaxdistill.logs import MetricLog
from jaxdistill.types import Mean, TrainState
from jaxdistill.workdir import bind_config, open_workdir


def train(config, workdir: str | os.PathLike, *, stop: Callable[[], bool] = lambda: False,
          quiet: bool = False) -> dict[str, Any]:
  """Trains the cohort that a config describes; continues where the workdir's newest checkpoint stands.

  Args:
    config: from a config file's `get_config()`, or `jaxdistill.config.load`.
    workdir: directory for everything the run writes.
    stop: asked after every dispatch; when true, the state is saved and `Preempted` raised.
    quiet: print nothing.

  Returns:
    What is in `summary.json`: last and best metrics of every member and of the ensemble.

  Raises:
    JaxdistillError: one line about what is wrong; nothing has been compiled or, for errors in the config or
      the data, written.
  """
  experiment, path = build(config), Path(workdir)
  lock = open_workdir(path)
  try:
    plain = config.to_dict()
    bind_config(path, plain, config_lib.digest(config), config_lib.differences)
    return Run(experiment, config, path, Console(quiet)).run(stop)
  finally:
    os.close(lock)


def _add(history: dict[str, Mean], window: dict[str, Mean]) -> dict[str, Mean]:
  return {name: history[name] + mean if name in history else mean for name, mean in window.items()}


class Run:
  """One run in one workdir: the state, the records that go with it, and the loop."""

  def __init__(self, experiment: Experiment, config, path: Path, console: Console):
    self.experiment, self.config, self.path, self.console = experiment, config, path, console
    self.members = cohort_lib.member_names(experiment.specs)
    self.deployed = experiment.method.deployed(self.members)
    self.checkpoints = Checkpoints(path / "checkpoints", config.keep_checkpoints)
    self.best: dict[str, dict[str, float]] = {}
    self.last: dict[str, dict[str, float]] = {}
    self.wins = {name: [0.0, 0.0] for name in self.members}
    self.compiled_eval: Callable | None = None
    self.surveyed = False
    self.started = time.perf_counter()
    checkpoint.remove_partial(path)
    self.state, self.step = self._initial_state()
    self.log = MetricLog(path, self.step)

  def _initial_state(self) -> tuple[TrainState, int]:
    restored = self.checkpoints.restore(self.experiment.state)
    if restored is None:
      for note in self.experiment.notes:
        self.console.say(note)
      with self.console.timed("Initialising the cohort"):
        return jax.block_until_ready(self.experiment.init()), 0
    state, manifest = restored
    self.best, self.last, self.wins = manifest["best"], manifest["last"], manifest["wins"]
    self.console.say(f"resuming from the checkpoint of step {manifest['step']}")
    return state, manifest["step"]

  def run(self, stop: Callable[[], bool]) -> dict[str, Any]:
    """Trains to the end, or until `stop`; returns the summary."""
    plan, data = self.experiment.plan, self.experiment.dataset
    try:
      if self.step < plan.total:
        train_data = sharding.put_replicated(self.experiment.mesh, tuple(data.train))
        self.test_data = sharding.put_replicated(self.experiment.mesh, tuple(data.test))
        self.splits = {"train": train_data}
        if data.holdout:
          self.splits["holdout"] = sharding.put_replicated(self.experiment.mesh, tuple(data.holdout))
        with self.console.progress(self.step, plan.total):
          self._loop(train_data, stop)
      return self._finish()
    finally:
      self.log.close()

  def _compile(self, train_data):
    """Compiles the step for as many steps per call as all periods, and the step of the start, allow."""
    plan, specs = self.experiment.plan, self.experiment.specs
    periods = (plan.log_every, plan.eval_every, plan.checkpoint_every, plan.per_epoch, plan.total, self.step)
    count = optim.common_period(periods, self.experiment.steps_limit)
    resident = step_lib.make_resident_step(
        self.experiment.train_step, self.experiment.mesh, batch_size=self.config.batch_size,
        steps_per_epoch=plan.per_epoch, steps_per_dispatch=count)
    if count < min(10, self.experiment.steps_limit):
      self.console.say(f"note: the steps of log_every, eval_every, checkpoint_every, an epoch and the run have only "
                       f"{count} as a common divisor, so a dispatch runs no more; '0.1 epochs' and the like allow more")
    cohort = " + ".join(f"{spec.size} {spec.name}" for spec in specs)
    counted = lambda number, noun: f"{number} {noun}{'s' if number > 1 else ''}"
    devices = counted(self.experiment.mesh.size, f"{jax.default_backend()} device")
    with self.console.timed(f"Compiling the train step ({cohort}, batch {self.config.batch_size}, {devices}, "
                            f"{counted(count, 'step')} per dispatch)"):
      order = self._order(0)
      return resident.lower(self.state, *train_data, order).compile(), count

  def _order(self, epoch: int):
    order = step_lib.epoch_order(self.state.key, epoch, len(self.experiment.dataset.train.label))
    return jax.device_put(order, sharding.replicated(self.experiment.mesh))

  def _loop(self, train_data, stop: Callable[[], bool]) -> None:
    plan = self.experiment.plan
    dispatch, count = self._compile(train_data)
    window, order, since = [], None, (time.perf_counter(), self.step)
    while self.step < plan.total:
      if self.step % plan.per_epoch == 0:
        self._survey(self.step // plan.per_epoch)
      if order is None or self.step % plan.per_epoch == 0:
        order = self._order(self.step // plan.per_epoch)
      self.state, measured = dispatch(self.state, *train_data, order)
      if window:
        jax.block_until_ready(window[-1])  # one dispatch ahead is enough to keep the device busy
      window.append(measured)
      self.step += count
      rate = (self.step - since[1]) * self.config.batch_size / (time.perf_counter() - since[0])
      self.console.advance(self.step, rate)
      due = lambda every: self.step % every == 0 or self.step == plan.total
      stopping = stop() and self.step < plan.total
      saving = due(plan.checkpoint_every) or stopping
      if due(plan.log_every) or due(plan.eval_every) or saving:
        self._flush(window)
        window = []
      if due(plan.eval_every):
        self._evaluate(rate)
        since = (time.perf_counter(), self.step)
      if saving:
        self.checkpoints.save(self.state, self.step, best=self.best, last=self.last, wins=self.wins)
      if stopping:
        raise Preempted(f"stopped at step {self.step} of {plan.total}, state saved: run the same command with "
                        f"--workdir={self.path} to go on")

  def _survey(self, epoch: int) -> None:
    """Makes the passes that the method wants before an epoch; what comes of them is in the next checkpoint."""
    surveyor = self.experiment.surveyor
    if not surveyor.due(epoch):
      return
    with contextlib.nullcontext() if self.surveyed else self.console.timed(
        f"Compiling and making the method's first survey, before epoch {epoch + 1}"):
      self.state = jax.block_until_ready(surveyor.run(self.state, self.splits, epoch))
    self.surveyed = True

  def _flush(self, window: list[dict[str, Mean]]) -> None:
    """Writes the training line of the steps since the last one."""
    total: dict[str, Mean] = {}
    for part in jax.device_get(window):
      total = _add(total, part)
    values = {}
    for metric, mean in total.items():
      value = np.asarray(mean.value())
      names = [f"{metric}/{name}" for name in self.members] if value.ndim else [metric]
      values |= dict(zip(names, np.atleast_1d(value).astype(float).tolist()))
    for m, name in enumerate(self.members):
      if "wins" in total:
        self.wins[name][0] += float(total["wins"].total[m])
        self.wins[name][1] += float(total["wins"].count[m])
      skipped = values[f"skipped/{name}"]
      if skipped:
        self.console.say(f"warning: step {self.step}: {name} skipped {100 * skipped:.0f} % of the updates since the "
                         "last line, its loss or gradient was not finite")
    self.log.write(self.step, self.step / self.experiment.plan.per_epoch, "train", values)
    if all(values[f"skipped/{name}"] == 1 for name in self.members):
      raise DivergedError(f"step {self.step}: no member has a finite update any more: lower optimizer.learning_rate "
                          f"or set optimizer.clip_norm; the last checkpoint in {self.path} is finite")

  def _evaluate(self, rate: float) -> None:
    """Measures the test split, writes its line and keeps the weights of every member that improved."""
    batch_size = self.experiment.eval_batch_size
    if not self.compiled_eval:
      with self.console.timed(f"Compiling the evaluation (batch {batch_size})"):
        self.compiled_eval = compile_eval(self.experiment.eval_step, self.state, *self.test_data, batch_size)
    self.last = evaluate(self.compiled_eval, self.state, *self.test_data,
                         num_examples=len(self.experiment.dataset.test.label), batch_size=batch_size)
    epoch = self.step / self.experiment.plan.per_epoch
    values = {f"{metric}/{name}": value for name, row in self.last.items() for metric, value in row.items()}
    self.log.write(self.step, epoch, "test", values)
    names = [*self.members, *(name for name in self.last if name not in self.members)]
    self.console.evaluation(self.step, self.experiment.plan.total, epoch, rate,
                            {name: self.last[name]["top1"] for name in names})
    for name, row in self.last.items():
      if name not in self.best or row["top1"] > self.best[name]["top1"]:
        self.best[name] = {"step": self.step, **row}
        if name in self.deployed:
          self._save_member(name, "best")

  def _save_member(self, name: str, which: str) -> None:
    """Writes one member alone, with what is needed to build and feed it; the method's modules stay behind."""
    group, _, k = name.rpartition(".")
    params, stats = jax.tree.map(lambda x: x[int(k)], self.state.cohort[group].deployed)
    data = self.experiment.dataset
    checkpoint.save(self.path / "members" / name / which, {"params": params, **stats}, step=self.step,
                    metrics=self.last[name], model=config_lib.network(self.config.cohort[group]), num_classes=data.num_classes,
                    mean=data.mean, std=data.std)

  def _finish(self) -> dict[str, Any]:
    """Writes `summary.json` and the last weights, and prints the closing table."""
    summary: dict[str, Any] = {"members": {}}
    counts = {member: cohort_lib.parameter_count(self.state.cohort[spec.name])
              for spec in self.experiment.specs for member in spec.members}
    for name in self.members:
      total, count = self.wins[name]
      wins = {"wins": total / count} if count else {}
      summary["members"][name] = {"last": {"step": self.step, **self.last[name]}, "best": self.best[name],
                                  "parameters": counts[name], **wins}
      if name in self.deployed:
        self._save_member(name, "last")
    predictions = [name for name in self.last if name not in self.members]
    for name in predictions:
      summary[name] = {"last": {"step": self.step, **self.last[name]}, "best": self.best[name]}
    summary |= {"predictions": predictions, "steps": self.step, "method": self.config.method.name,
                "config_digest": config_lib.digest(self.config)}
    finite = lambda x: ({k: finite(v) for k, v in x.items()} if isinstance(x, dict) else
                        None if isinstance(x, float) and not math.isfinite(x) else x)
    checkpoint.write_json(self.path / "summary.json", finite(summary))
    self.console.closing_table(summary, str(self.path), time.perf_counter() - self.started)
    return summary
