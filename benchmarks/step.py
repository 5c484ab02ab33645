"""Times the train step of a config under other member mappings and steps per dispatch, side by side in one process.

    python benchmarks/step.py --config=configs/cifar100_competitive.py --variants=vmap:1,unroll:1,vmap:10
    python benchmarks/step.py --variants=vmap:1:independent,vmap:1:dml,vmap:1:ffsd --config.cohort.resnet32.members=3

A variant is mapping:steps, or mapping:steps:method for a method other than the config's.
Images are random. Variants take turns, so that a noisy machine slows all of them alike; the table gives the median
and its ratio to the first variant. `--torch` adds the same step in eager PyTorch, in turns as well. `--config.key=value`
overrides the config; `--json=FILE` writes the numbers.
"""

import json
import time

from absl import app, flags
import jax
import numpy as np

from jaxdistill.engine import sharding
from jaxdistill.engine.dispatch import epoch_order, make_dispatch
from jaxdistill.run.config import apply_overrides, component, load_config

_CONFIG = flags.DEFINE_string("config", "configs/cifar100_competitive.py", "Config whose step is timed.")
_VARIANTS = flags.DEFINE_list("variants", ["vmap:1", "unroll:1", "vmap:5"], "mapping:steps per dispatch[:method], ...")
_ROUNDS = flags.DEFINE_integer("rounds", 7, "Timed calls of each variant.")
_TORCH = flags.DEFINE_bool("torch", False, "Time eager PyTorch as well.")
_JSON = flags.DEFINE_string("json", "", "File for the numbers.")

EXAMPLES, NUM_CLASSES = 5000, 100


def jax_variant(config, mapping, count, method):
  """Returns (run one dispatch, steps it runs, compile seconds)."""
  config = config.copy_and_resolve_references()
  config.mapping = mapping
  if method:
    apply_overrides(config, [f"method.name={method}"])
  experiment = build_lib.build(config)
  plan = experiment.plan
  resident = make_dispatch(experiment.train_step, experiment.mesh, batch_size=config.batch_size,
                                         steps_per_epoch=plan.per_epoch, steps_per_dispatch=count)
  state, data = experiment.init(), sharding.put_replicated(experiment.mesh, tuple(experiment.dataset.train))
  order = epoch_order(state.key, 0, EXAMPLES)
  order = jax.device_put(order, sharding.replicated(experiment.mesh))
  start = time.perf_counter()
  compiled = resident.lower(state, *data, order).compile()
  seconds = time.perf_counter() - start
  holder = [state]
  def run():
    holder[0], metrics = compiled(holder[0], *data, order)
    jax.block_until_ready(metrics)
  return run, count, seconds


def main(argv):
  config = load_config(_CONFIG.value, [arg.removeprefix("--config.") for arg in argv[1:]])
  config.data = component("data", "random_images:cifar", examples=EXAMPLES, num_classes=NUM_CLASSES)
  variants = {}
  for text in _VARIANTS.value:
    mapping, count, *method = text.split(":")
    variants[text] = jax_variant(config, mapping, int(count), *(method or [""]))
  if _TORCH.value:
    import torch_step
    variants["torch eager"] = torch_step.variant(config, NUM_CLASSES, EXAMPLES)
  times = {name: [] for name in variants}
  for run, _, _ in variants.values():
    run()
  for _ in range(_ROUNDS.value):
    for name, (run, count, _) in variants.items():
      start = time.perf_counter()
      run()
      times[name].append((time.perf_counter() - start) / count)
  rows, first = {}, None
  cohort = " + ".join(f"{g.members} {name}" for name, g in config.cohort.items())
  print(f"{config.method.name}, {cohort}, batch {config.batch_size}, {config.dtype}, {jax.devices()[0].device_kind}")
  print(f"{'variant':28} {'ms/step':>9} {'ratio':>6} {'images/s':>9} {'compile s':>9}")
  for name, values in times.items():
    ms = 1e3 * float(np.median(values))
    first = first or ms
    rows[name] = {"ms": ms, "ratio": ms / first, "compile_s": variants[name][2]}
    print(f"{name:28} {ms:9.1f} {ms / first:6.2f} {1e3 * config.batch_size / ms:9.0f} {variants[name][2]:9.1f}")
  if _JSON.value:
    with open(_JSON.value, "w") as file:
      json.dump({"config": config.to_dict(), "backend": jax.default_backend(), "variants": rows}, file, indent=1, default=str)


if __name__ == "__main__":
  app.run(main, flags_parser=lambda argv: flags.FLAGS(argv, known_only=True))
