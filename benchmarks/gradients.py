"""Times both gradients of convolutions, alone and inside a loop.

    taskset -c 1 python benchmarks/gradients.py --batch=32

Gives milliseconds of processor time, the least of five calls, as JAX derives the
gradients and as `member_conv` has them, for the convolutions of CIFAR ResNets.
"""

import time

from absl import app, flags
import jax
from jax import lax
import jax.numpy as jnp

from jaxdistill.nn import conv
from jaxdistill.run import kept_memory

_BATCH = flags.DEFINE_integer("batch", 32, "Images.")

# (side, channels in, channels out, stride).
LAYERS = ((32, 16, 16, 1), (16, 32, 32, 1), (8, 64, 64, 1), (32, 16, 32, 2))
FUNCTIONS = {"lax": lax.conv_general_dilated, "member_conv": conv.member_conv}
PASSES = 2


def milliseconds(function, *arrays):
  """Returns the processor time of a call."""
  compiled = jax.jit(function)
  jax.block_until_ready(compiled(*arrays))
  times = []
  for _ in range(5):
    start = time.process_time()
    jax.block_until_ready(compiled(*arrays))
    times.append(1e3 * (time.process_time() - start))
  return min(times)


def make_gradients(function, stride):
  """Returns (input, kernel, cotangent) -> gradients."""

  def convolve(x, kernel):
    return function(
      x,
      kernel,
      window_strides=(stride, stride),
      padding=((1, 1), (1, 1)),
      dimension_numbers=conv.NHWC,
    )

  def gradients(x, kernel, cotangent):
    _, pull_back = jax.vjp(convolve, x, kernel)
    return pull_back(cotangent)

  return gradients


def in_loop(gradients):
  """Returns the same, `PASSES` times in a loop."""

  def run(x, kernel, cotangent):
    def descend(kernel, _):
      x_gradient, kernel_gradient = gradients(x, kernel, cotangent)
      return kernel - 1e-3 * kernel_gradient, x_gradient.sum()

    return lax.scan(descend, kernel, length=PASSES)

  return run


def main(argv):
  del argv
  print(f"{'layer':24} {'function':12} {'alone':>8} {'in loop':>8}")
  for side, inputs, outputs, stride in LAYERS:
    x = jnp.ones((_BATCH.value, side, side, inputs))
    kernel = jnp.ones((3, 3, inputs, outputs))
    small = side // stride
    cotangent = jnp.ones((_BATCH.value, small, small, outputs))
    for name, function in FUNCTIONS.items():
      gradients = make_gradients(function, stride)
      alone = milliseconds(gradients, x, kernel, cotangent)
      looped = milliseconds(in_loop(gradients), x, kernel, cotangent) / PASSES
      layer = f"{side}x{side}, {inputs} to {outputs}, stride {stride}"
      print(f"{layer:24} {name:12} {alone:8.1f} {looped:8.1f}", flush=True)


if __name__ == "__main__":
  kept_memory.restart_with_it()
  app.run(main)
