"""Damaged checkpoints: every change is found, or changes nothing that is read."""

from pathlib import Path
import shutil

import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.run import checkpoint
from tests.faults.mutations import Verdict, mutate_file


def fuzz(count: int, seed: int, directory: Path) -> Verdict:
  """Damages one file of a checkpoint at a time, or renames or removes it."""
  rng = np.random.default_rng(seed)
  intact = directory / "intact"
  weights = jnp.asarray(rng.normal(size=(64, 32)), jnp.float32)
  tree = {"weights": weights, "step": jnp.int32(3)}
  checkpoint.save(intact, tree, step=3, history={"best": {"a.0": {"top1": 0.5}}})
  expected, manifest = checkpoint.load(intact)
  verdict = Verdict()
  for number in range(count):
    copy = directory / "copy"
    shutil.copytree(intact, copy)
    files = sorted(path for path in copy.rglob("*") if path.is_file())
    file = files[int(rng.integers(len(files)))]
    kind = rng.integers(10)
    if kind == 0:
      file.unlink()
    elif kind == 1:
      file.rename(file.with_name("renamed"))
    else:
      mutate_file(file, rng)

    def accept(found):
      same = jax.tree.map(np.array_equal, found[0], expected)
      if not all(jax.tree.leaves(same)):
        return "other arrays"
      return "" if found[1] == manifest else "another manifest"

    what = f"mutation {number} of {file.relative_to(copy)}"
    verdict.read(what, lambda copy=copy: checkpoint.load(copy), accept)
    shutil.rmtree(copy)
  return verdict
