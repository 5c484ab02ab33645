"""Times the gradient of every built-in network beside its FLOPs.

    python benchmarks/networks.py --batch=8 --json=networks.json
    python benchmarks/networks.py --only=resnet,vit.vit_s

Gives the seconds to compile and the milliseconds for an image. Images are random, of
the size the network is usually used with, in float32. The step is the gradient of the
cross-entropy in training mode and one update. The last column is what that comes to, at
three times the FLOPs of the forward pass. Networks are compiled and timed one after the
other, `--rounds` times, of which the median is given.
"""

import json
import time
from typing import NamedTuple

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import losses
from jaxdistill.core import registry
from jaxdistill.tools.models import describe

_BATCH = flags.DEFINE_integer("batch", 8, "Images of a step.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Timed steps.")
_ONLY = flags.DEFINE_list("only", [], "Networks, or modules of networks; all if empty.")
_JSON = flags.DEFINE_string("json", "", "File for the numbers.")

_HEADER = (
  f"{'network':<26} {'image':>5} {'parameters':>12} {'GFLOPs':>8} {'compile s':>9} "
  f"{'ms/image':>9} {'GFLOP/s':>8}"
)


class Seconds(NamedTuple):
  """Times of a training step."""

  compile: float
  step: float


def measure(name: str, side: int, classes: int) -> Seconds:
  """Compiles and times a training step of a network."""
  model = registry.resolve("models", name, num_classes=classes)
  rng = np.random.default_rng(0)
  shape = (_BATCH.value, side, side, 3)
  image = jnp.asarray(rng.normal(size=shape), jnp.float32)
  label = jnp.asarray(rng.integers(0, classes, _BATCH.value))

  def init():
    return model.init(jax.random.key(0), image[:1], train=False)

  # Small numbers instead of an initialisation, which would take longer to compile than
  # the step.
  def draw(x):
    return jnp.asarray(rng.uniform(0.01, 0.02, x.shape), x.dtype)

  variables = jax.tree.map(draw, jax.eval_shape(init))
  others = [key for key in variables if key != "params"]

  def step(variables, image, label):
    def loss(params):
      output, updated = model.apply(
        {**variables, "params": params},
        image,
        train=True,
        rngs={"dropout": jax.random.key(0)},
        mutable=others,
      )
      return losses.cross_entropy(output.logits, label).mean(), updated

    def descend(param, grad):
      return param - 1e-4 * grad

    grads, updated = jax.grad(loss, has_aux=True)(variables["params"])
    params = jax.tree.map(descend, variables["params"], grads)
    return {**variables, **updated, "params": params}

  start = time.perf_counter()
  jitted = jax.jit(step, donate_argnums=0)
  compiled = jitted.lower(variables, image, label).compile()
  compile_seconds = time.perf_counter() - start

  # The first step warms up.
  times = []
  for _ in range(_ROUNDS.value + 1):
    start = time.perf_counter()
    variables = jax.block_until_ready(compiled(variables, image, label))
    times.append(time.perf_counter() - start)
  return Seconds(compile=compile_seconds, step=float(np.median(times[1:])))


def main(argv):
  del argv
  rows = {}
  print(f"batch {_BATCH.value}, float32, {jax.devices()[0].device_kind}")
  print(_HEADER)
  wanted = set(_ONLY.value)
  for name in registry.list_available("models"):
    family = name.split(".")[0]
    if wanted and not wanted & {name, family}:
      continue
    network = describe(name)
    seconds = measure(name, network.side, network.classes)
    per_image = seconds.step / _BATCH.value
    rows[name] = {
      "image": network.side,
      "parameters": network.parameters,
      "flops": network.flops,
      "compile_s": seconds.compile,
      "ms": 1e3 * per_image,
    }
    print(
      f"{name:<26} {network.side:>5} {network.parameters:>12,} "
      f"{network.flops / 1e9:>8.3f} {seconds.compile:>9.1f} {1e3 * per_image:>9.1f} "
      f"{3 * network.flops / per_image / 1e9:>8.1f}",
      flush=True,
    )
  if _JSON.value:
    summary = {
      "backend": jax.default_backend(),
      "batch": _BATCH.value,
      "networks": rows,
    }
    with open(_JSON.value, "w") as file:
      json.dump(summary, file, indent=1)


if __name__ == "__main__":
  app.run(main)
