"""Damaged data sets and weights: refused in one line, or read as what they say."""

from pathlib import Path
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from jaxdistill.core import registry
from jaxdistill.run import pretrained
from tests.faults.mutations import Verdict, mutate_file
from tests.helpers import data_files

# What carries a checksum of its content may not be read as anything else.
CHECKED = ("archive", "npz", "tfds")


def _arrays(rng):
  sizes = {"train": data_files.TRAIN, "test": data_files.TEST}
  arrays = {}
  for split, size in sizes.items():
    shape = (size, 32, 32, 3)
    arrays[f"images_{split}"] = rng.integers(0, 256, shape, np.uint8)
    arrays[f"labels_{split}"] = rng.integers(0, 10, size)
  return arrays


def fuzz_data(count: int, seed: int, directory: Path) -> Verdict:
  """Damages one file of a data set at a time, in every layout in turn."""
  rng = np.random.default_rng(seed)
  arrays = _arrays(rng)
  layouts = {}
  for number, (name, write) in enumerate(data_files.LAYOUTS.items()):
    layouts[name] = directory / str(number)
    layouts[name].mkdir()
    write(layouts[name], "cifar100", arrays)
  intact = {name: data_files.load("cifar100", root) for name, root in layouts.items()}
  verdict = Verdict()
  for number in range(count):
    name = list(layouts)[number % len(layouts)]
    root = directory / "damaged"
    shutil.copytree(layouts[name], root)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    file = files[int(rng.integers(len(files)))]
    mutate_file(file, rng)

    def accept(found, name=name):
      if not any(word in name for word in CHECKED):
        return ""
      for split in ("train", "test"):
        for was, now in zip(
          getattr(intact[name], split), getattr(found, split), strict=True
        ):
          if not np.array_equal(was, now):
            return f"another {split} split"
      return ""

    what = f"{name}, {file.relative_to(root)}, mutation {number}"
    verdict.read(what, lambda root=root: data_files.load("cifar100", root), accept)
    shutil.rmtree(root)
  return verdict


def fuzz_weights(count: int, seed: int, directory: Path) -> Verdict:
  """Damages a safetensors file."""
  rng = np.random.default_rng(seed)
  model = registry.resolve("models", "small.convnet", num_classes=3, width=4)
  variables = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), train=False)
  intact = directory / "intact.safetensors"
  safetensors.numpy.save_file(pretrained.to_published(variables), intact)
  verdict = Verdict()
  for number in range(count):
    file = directory / "damaged.safetensors"
    shutil.copyfile(intact, file)
    mutate_file(file, rng)

    def accept(weights):
      # The format has no checksum: other numbers are read, but finite ones only.
      finite = [np.isfinite(array).all() for array in weights.arrays.values()]
      return "" if all(finite) else "weights that are not finite"

    verdict.read(
      f"weights, mutation {number}",
      lambda file=file: pretrained.load(str(file), variables, num_classes=3),
      accept,
    )
  return verdict
