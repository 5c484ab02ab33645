"""Times the train step of a config under other mappings and steps per dispatch.

    python benchmarks/step.py --config=configs/cifar100_competitive.py
    python benchmarks/step.py --variants=vmap:1,unroll:1,vmap:10
    python benchmarks/step.py --variants=vmap:1,vmap:1/freed,vmap:1/whole --torch
    python benchmarks/step.py --variants=vmap:1:independent,vmap:1:dml,vmap:1:ffsd \\
        --config.cohort.resnet32.members=3

A variant is mapping:steps, or mapping:steps:method for a method other than the
config's; behind a slash, what it goes without (see `WITHOUT`). Images are random. Every
variant has a process of its own, and these take turns, so that a noisy machine slows
all of them alike. The table gives the fastest round, the processor time of all threads
and the page faults, with ratios to the first variant. `--torch` adds the same step in
eager PyTorch, `--beside=DIR` the whole variants in another checkout of the library.
`--config.key=value` overrides the config; `--json=FILE` writes the numbers.
"""

from collections.abc import Callable
import json
import os
import resource
import subprocess
import sys
import time
from typing import NamedTuple

from absl import app, flags

_CONFIG = flags.DEFINE_string(
  "config", "configs/cifar100_competitive.py", "Config whose step is timed."
)
_VARIANTS = flags.DEFINE_list(
  "variants",
  ["vmap:1", "unroll:1", "vmap:5"],
  "mapping:steps per dispatch[:method][/without], ...",
)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed calls of each variant.")
_TORCH = flags.DEFINE_bool("torch", False, "Time eager PyTorch as well.")
_BESIDE = flags.DEFINE_string("beside", "", "Another checkout to be timed as well.")
_JSON = flags.DEFINE_string("json", "", "File for the numbers.")
_WORKER = flags.DEFINE_string("worker", "", "Used inside: the variant to run.")

EXAMPLES = 5000
NUM_CLASSES = 100
TORCH = "torch eager"
FREED = "freed"


class Variant(NamedTuple):
  """One way to run the step."""

  run: Callable[[], None]
  """Runs one dispatch to its end."""
  steps: int
  """Steps of a dispatch."""
  compile_seconds: float
  program: str = ""
  """What XLA made of it."""


class Round(NamedTuple):
  """What a step took."""

  ms: float
  """Time on the wall."""
  user_ms: float
  """Processor time of all threads in the program."""
  system_ms: float
  """Processor time of all threads in the kernel."""
  faults: float
  """Pages that were mapped."""


def _without_chunks():
  """Makes kernel gradients on a CPU from all images of a batch at once."""
  from jaxdistill.nn import conv

  conv.IMAGES_AT_ONCE = sys.maxsize


def _unshared():
  """Leaves every convolution on a CPU to the library that XLA takes by itself."""
  from jaxdistill.nn import conv

  conv.shares_convolutions = _no


def _no():
  return False


def _giving_memory_back():
  """Does nothing: the process was started so."""


# What a variant may go without.
WITHOUT = {
  FREED: _giving_memory_back,
  "whole": _without_chunks,
  "unshared": _unshared,
}


def read_config(overrides):
  """Returns the config, on random images."""
  from jaxdistill.run.config import load_config
  from jaxdistill.run.sections import component

  config = load_config(_CONFIG.value, overrides)
  config.data = component(
    "data", "random_images:cifar", examples=EXAMPLES, num_classes=NUM_CLASSES
  )
  return config


def jax_variant(config, name):
  """Compiles the step of a config under a mapping, for so many steps a dispatch."""
  import jax

  from jaxdistill.engine import sharding
  from jaxdistill.engine.dispatch import epoch_order, make_dispatch
  from jaxdistill.engine.resident import put_resident
  from jaxdistill.run.build import build
  from jaxdistill.run.overrides import apply_overrides

  text, *options = name.split("/")
  mapping, steps, *method = text.split(":")
  for option in options:
    WITHOUT[option]()
  config.mapping = mapping
  if method:
    apply_overrides(config, [f"method.name={method[0]}"])
  experiment = build(config)
  mesh = experiment.mesh
  dispatch = make_dispatch(
    experiment.train_step,
    mesh,
    batch_size=config.batch_size,
    steps_per_epoch=experiment.clock.steps_per_epoch,
    steps_per_dispatch=int(steps),
  )
  state = experiment.init()
  data = put_resident(mesh, *experiment.dataset.train)
  order = epoch_order(state.key, 0, EXAMPLES)
  order = jax.device_put(order, sharding.replicated(mesh))
  start = time.perf_counter()
  compiled = dispatch.lower(state, data, order).compile()
  seconds = time.perf_counter() - start

  def run():
    nonlocal state
    state, metrics = compiled(state, data, order)
    jax.block_until_ready((state, metrics))

  return Variant(run, int(steps), seconds, compiled.as_text())


def work(config, name):
  """Runs a dispatch for every line that comes in; answers each with its `Round`."""
  if name == TORCH:
    import torch_step

    variant = Variant(*torch_step.variant(config, NUM_CLASSES, EXAMPLES))
  else:
    variant = jax_variant(config, name)
  # The first call warms up.
  variant.run()
  print(json.dumps({"compile_s": variant.compile_seconds}), flush=True)
  for _ in sys.stdin:
    before = resource.getrusage(resource.RUSAGE_SELF)
    start = time.perf_counter()
    variant.run()
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF)
    total = Round(
      ms=1e3 * seconds,
      user_ms=1e3 * (after.ru_utime - before.ru_utime),
      system_ms=1e3 * (after.ru_stime - before.ru_stime),
      faults=after.ru_minflt - before.ru_minflt,
    )
    print(json.dumps([value / variant.steps for value in total]), flush=True)


class Worker:
  """A process that runs one variant."""

  def __init__(self, name: str, checkout: str = ""):
    # Not at the top: another checkout may not have it yet.
    from jaxdistill.run import kept_memory

    environment = dict(os.environ)
    # As a run on a CPU starts itself.
    if name != TORCH and FREED not in name:
      environment[kept_memory.VARIABLE] = kept_memory.with_settings("")
    if checkout:
      search = [checkout, environment.get("PYTHONPATH", "")]
      environment["PYTHONPATH"] = os.pathsep.join(search)
    self._process = subprocess.Popen(
      [sys.executable, *sys.argv, f"--worker={name}"],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
      env=environment,
    )
    self.compile_seconds = self._answer()["compile_s"]
    self.rounds: list[Round] = []

  def _answer(self):
    """Returns the next line of JSON; what libraries print is skipped."""
    for line in self._process.stdout:
      if line.startswith(("[", "{")):
        return json.loads(line)
    raise SystemExit(f"a variant ended with code {self._process.wait()}")

  def run(self):
    """Runs a dispatch."""
    print(file=self._process.stdin, flush=True)
    self.rounds.append(Round(*self._answer()))

  def stop(self):
    """Ends the process."""
    self._process.stdin.close()
    self._process.wait()


def summarise(worker):
  """Returns the numbers of a row: of the fastest round, and of the least work."""
  rounds = worker.rounds
  quietest = min(rounds, key=lambda r: r.user_ms + r.system_ms)
  return {
    "ms": min(r.ms for r in rounds),
    "user_ms": quietest.user_ms,
    "system_ms": quietest.system_ms,
    "faults": min(r.faults for r in rounds),
    "compile_s": worker.compile_seconds,
  }


def start_workers():
  """Returns name -> worker of every variant, compiled one after the other."""
  workers = {}
  for name in _VARIANTS.value:
    workers[name] = Worker(name)
    if _BESIDE.value and "/" not in name:
      workers[f"{name} beside"] = Worker(name, _BESIDE.value)
  if _TORCH.value:
    workers[TORCH] = Worker(TORCH)
  return workers


def main(argv):
  overrides = [arg.removeprefix("--config.") for arg in argv[1:]]
  config = read_config(overrides)
  if _WORKER.value:
    work(config, _WORKER.value)
    return
  workers = start_workers()
  for _ in range(_ROUNDS.value):
    for worker in workers.values():
      worker.run()
  for worker in workers.values():
    worker.stop()

  cohort = " + ".join(
    f"{group.members} {group.model}" for group in config.cohort.values()
  )
  batch = f"batch {config.batch_size}, {config.dtype}"
  print(f"{config.method.name}, {cohort}, {batch}")
  print(
    f"{'variant':24} {'ms/step':>8} {'ratio':>6} {'user':>7} {'system':>7} "
    f"{'ratio':>6} {'faults':>8} {'compile s':>9}"
  )
  rows = {name: summarise(worker) for name, worker in workers.items()}
  first = next(iter(rows.values()))
  first_work = first["user_ms"] + first["system_ms"]
  for name, row in rows.items():
    row["ratio"] = row["ms"] / first["ms"]
    row["work_ratio"] = (row["user_ms"] + row["system_ms"]) / first_work
    print(
      f"{name:24} {row['ms']:8.1f} {row['ratio']:6.2f} {row['user_ms']:7.0f} "
      f"{row['system_ms']:7.0f} {row['work_ratio']:6.2f} {row['faults']:8.0f} "
      f"{row['compile_s']:9.1f}"
    )
  if _JSON.value:
    record = {"config": config.to_dict(), "variants": rows}
    with open(_JSON.value, "w") as file:
      json.dump(record, file, indent=1, default=str)


if __name__ == "__main__":
  app.run(main, flags_parser=lambda argv: flags.FLAGS(argv, known_only=True))
