"""Times the train step of a config under other mappings and steps per dispatch.

    python benchmarks/step.py --config=configs/cifar100_competitive.py
    python benchmarks/step.py --variants=vmap:1,unroll:1,vmap:10
    python benchmarks/step.py --variants=vmap:1:independent,vmap:1:dml,vmap:1:ffsd \\
        --config.cohort.resnet32.members=3

A variant is mapping:steps, or mapping:steps:method for a method other than the
config's. Images are random. Variants take turns in one process, so that a noisy machine
slows all of them alike; the table gives the median and its ratio to the first variant.
`--torch` adds the same step in eager PyTorch, in turns as well. `--config.key=value`
overrides the config; `--json=FILE` writes the numbers.
"""

from collections.abc import Callable
import json
import time
from typing import NamedTuple

from absl import app, flags
import jax
import numpy as np

from jaxdistill.engine import sharding
from jaxdistill.engine.dispatch import epoch_order, make_dispatch
from jaxdistill.engine.resident import put_resident
from jaxdistill.run.build import build
from jaxdistill.run.config import load_config
from jaxdistill.run.overrides import apply_overrides
from jaxdistill.run.sections import component

_CONFIG = flags.DEFINE_string(
  "config", "configs/cifar100_competitive.py", "Config whose step is timed."
)
_VARIANTS = flags.DEFINE_list(
  "variants",
  ["vmap:1", "unroll:1", "vmap:5"],
  "mapping:steps per dispatch[:method], ...",
)
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed calls of each variant.")
_TORCH = flags.DEFINE_bool("torch", False, "Time eager PyTorch as well.")
_JSON = flags.DEFINE_string("json", "", "File for the numbers.")

EXAMPLES = 5000
NUM_CLASSES = 100


class Variant(NamedTuple):
  """One way to run the step."""

  run: Callable[[], None]
  """Runs one dispatch to its end."""
  steps: int
  """Steps of a dispatch."""
  compile_seconds: float


def jax_variant(config, mapping, steps, method):
  """Compiles the step of a config under a mapping, for so many steps a dispatch."""
  config = config.copy_and_resolve_references()
  config.mapping = mapping
  if method:
    apply_overrides(config, [f"method.name={method}"])
  experiment = build(config)
  mesh = experiment.mesh
  dispatch = make_dispatch(
    experiment.train_step,
    mesh,
    batch_size=config.batch_size,
    steps_per_epoch=experiment.clock.steps_per_epoch,
    steps_per_dispatch=steps,
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
    jax.block_until_ready(metrics)

  return Variant(run, steps, seconds)


def measure(variants, rounds):
  """Returns variant -> seconds of a step in each round, after an untimed one."""
  times = {name: [] for name in variants}
  for variant in variants.values():
    variant.run()
  for _ in range(rounds):
    for name, variant in variants.items():
      start = time.perf_counter()
      variant.run()
      times[name].append((time.perf_counter() - start) / variant.steps)
  return times


def main(argv):
  overrides = [arg.removeprefix("--config.") for arg in argv[1:]]
  config = load_config(_CONFIG.value, overrides)
  config.data = component(
    "data", "random_images:cifar", examples=EXAMPLES, num_classes=NUM_CLASSES
  )
  variants = {}
  for text in _VARIANTS.value:
    mapping, steps, *method = text.split(":")
    variants[text] = jax_variant(config, mapping, int(steps), *(method or [""]))
  if _TORCH.value:
    import torch_step

    variants["torch eager"] = Variant(
      *torch_step.variant(config, NUM_CLASSES, EXAMPLES)
    )
  times = measure(variants, _ROUNDS.value)

  cohort = " + ".join(
    f"{group.members} {name}" for name, group in config.cohort.items()
  )
  device = jax.devices()[0].device_kind
  batch = f"batch {config.batch_size}, {config.dtype}"
  print(f"{config.method.name}, {cohort}, {batch}, {device}")
  print(f"{'variant':28} {'ms/step':>9} {'ratio':>6} {'images/s':>9} {'compile s':>9}")
  rows = {}
  first = 1e3 * float(np.median(times[next(iter(variants))]))
  for name, variant in variants.items():
    ms = 1e3 * float(np.median(times[name]))
    speed = 1e3 * config.batch_size / ms
    row = {"ms": ms, "ratio": ms / first, "compile_s": variant.compile_seconds}
    rows[name] = row
    print(
      f"{name:28} {ms:9.1f} {row['ratio']:6.2f} {speed:9.0f} {row['compile_s']:9.1f}"
    )
  if _JSON.value:
    record = {
      "config": config.to_dict(),
      "backend": jax.default_backend(),
      "variants": rows,
    }
    with open(_JSON.value, "w") as file:
      json.dump(record, file, indent=1, default=str)


if __name__ == "__main__":
  app.run(main, flags_parser=lambda argv: flags.FLAGS(argv, known_only=True))
