"""How long a run waits for a checkpoint, and how long it is written.

python -m benchmarks.checkpoints --model=resnet_cifar.resnet32 --side=32 --moments=1
python -m benchmarks.checkpoints --model=vit.vit_b --side=224 --moments=2 --saves=3
"""

import argparse
from pathlib import Path
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core import registry
from jaxdistill.core.types import PyTree
from jaxdistill.run.checkpoint import Checkpoints
from jaxdistill.run.room import bytes_of, in_units
from jaxdistill.run.saver import Saver


def make_state(model: str, *, side: int, moments: int, members: int) -> PyTree:
  """Returns random arrays of the shapes of a group and its optimiser."""
  network = registry.resolve("models", model, num_classes=100, dtype=jnp.float32)
  image = jnp.zeros((1, side, side, 3))
  shapes = jax.eval_shape(lambda: network.init(jax.random.key(0), image, train=False))
  rng = np.random.default_rng(0)

  def fill(x: jax.ShapeDtypeStruct) -> jax.Array:
    return jnp.asarray(rng.standard_normal((members, *x.shape), dtype=np.float32))

  state = {"variables": jax.tree.map(fill, shapes)}
  for number in range(moments):
    state[f"moment{number}"] = jax.tree.map(fill, shapes["params"])
  return jax.block_until_ready(state)


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument("--model", default="resnet_cifar.resnet32")
  parser.add_argument("--side", type=int, default=32)
  parser.add_argument("--moments", type=int, default=1)
  parser.add_argument("--members", type=int, default=2)
  parser.add_argument("--saves", type=int, default=7)
  flags = parser.parse_args()
  state = make_state(
    flags.model, side=flags.side, moments=flags.moments, members=flags.members
  )
  print(f"{in_units(bytes_of(state))}, {len(jax.tree.leaves(state))} arrays")

  waited = []
  written = []
  with tempfile.TemporaryDirectory() as directory:
    for step in range(flags.saves):
      # Fetched arrays stay on the host beside those of the devices.
      state = jax.block_until_ready(jax.tree.map(lambda x: x + 1, state))
      with Saver(Checkpoints(Path(directory))) as saver:
        start = time.perf_counter()
        saver.save(state, step, history={})
        waited.append(time.perf_counter() - start)
        saver.wait()
        written.append(time.perf_counter() - start)
  print(f"the run waits {statistics.median(waited):.4f} s")
  print(f"the checkpoint is written after {statistics.median(written):.4f} s")


if __name__ == "__main__":
  main()
