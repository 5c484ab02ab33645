"""Times the gradient of every built-in network beside its FLOPs: seconds to compile, milliseconds for an image.

    python benchmarks/networks.py --batch=8 --json=networks.json
    python benchmarks/networks.py --only=resnet,vit.vit_s

Images are random, of the size the network is usually used with, in float32. The step is the gradient of the
cross-entropy in training mode and one update. The last column is what that comes to, at three times the FLOPs of the
forward pass. Networks are compiled and timed one after the other, `--rounds` times, of which the median is given.
"""

import json
import time

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import losses
from jaxdistill.core import registry
from jaxdistill.models.__main__ import describe

_BATCH = flags.DEFINE_integer("batch", 8, "Images of a step.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Timed steps.")
_ONLY = flags.DEFINE_list("only", [], "Networks, or modules of networks; all if empty.")
_JSON = flags.DEFINE_string("json", "", "File for the numbers.")


def measure(name: str, side: int, classes: int) -> tuple[float, float]:
  """Returns (seconds to compile, seconds of a step)."""
  model = registry.resolve("models", name, num_classes=classes)
  rng = np.random.default_rng(0)
  image = jnp.asarray(rng.normal(size=(_BATCH.value, side, side, 3)), jnp.float32)
  label = jnp.asarray(rng.integers(0, classes, _BATCH.value))
  structure = jax.eval_shape(lambda: model.init(jax.random.key(0), image[:1], train=False))
  # Small numbers instead of an initialisation, which would take longer to compile than the step.
  variables = jax.tree.map(lambda x: jnp.asarray(rng.uniform(0.01, 0.02, x.shape), x.dtype), structure)

  def step(variables, image, label):
    def loss(params):
      output, updated = model.apply({**variables, "params": params}, image, train=True,
                                    rngs={"dropout": jax.random.key(0)}, mutable=[k for k in variables if k != "params"])
      return losses.cross_entropy(output.logits, label).mean(), updated
    grads, updated = jax.grad(loss, has_aux=True)(variables["params"])
    return {**variables, **updated, "params": jax.tree.map(lambda p, g: p - 1e-4 * g, variables["params"], grads)}

  start = time.perf_counter()
  compiled = jax.jit(step, donate_argnums=0).lower(variables, image, label).compile()
  compile_seconds = time.perf_counter() - start
  times = []
  for _ in range(_ROUNDS.value + 1):
    start = time.perf_counter()
    variables = jax.block_until_ready(compiled(variables, image, label))
    times.append(time.perf_counter() - start)
  return compile_seconds, float(np.median(times[1:]))


def main(argv):
  del argv
  rows = {}
  print(f"batch {_BATCH.value}, float32, {jax.devices()[0].device_kind}")
  print(f"{'network':<26} {'image':>5} {'parameters':>12} {'GFLOPs':>8} {'compile s':>9} {'ms/image':>9} {'GFLOP/s':>8}")
  for name in registry.list_available("models"):
    if _ONLY.value and not {name, name.split(".")[0]} & set(_ONLY.value):
      continue
    side, classes, parameters, flops, _ = describe(name)
    compile_seconds, seconds = measure(name, side, classes)
    each = seconds / _BATCH.value
    rows[name] = {"image": side, "parameters": parameters, "flops": flops, "compile_s": compile_seconds, "ms": 1e3 * each}
    print(f"{name:<26} {side:>5} {parameters:>12,} {flops / 1e9:>8.3f} {compile_seconds:>9.1f} {1e3 * each:>9.1f} "
          f"{3 * flops / each / 1e9:>8.1f}", flush=True)
  if _JSON.value:
    with open(_JSON.value, "w") as file:
      json.dump({"backend": jax.default_backend(), "batch": _BATCH.value, "networks": rows}, file, indent=1)


if __name__ == "__main__":
  app.run(main)
