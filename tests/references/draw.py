"""Weights and images drawn from names.

They are the same in every version of NumPy, here and where the references are recorded.
"""

import zlib

import numpy as np


def tensor(name, shape):
  """Draws a parameter or statistic in PyTorch's layout, from its published name."""
  # This stream is frozen; default_rng's may change.
  random = np.random.RandomState(zlib.crc32(name.encode()))
  leaf = name.rpartition(".")[2]
  is_scale = leaf == "weight" and len(shape) == 1
  if leaf in ("running_var", "D", "D_b") or is_scale:
    return random.uniform(0.5, 1.5, shape).astype(np.float32)
  if leaf.endswith("_log"):
    return random.uniform(0, 1, shape).astype(np.float32)
  scale = 0.1
  if leaf == "weight":
    scale = np.sqrt(2 / np.prod(shape[1:]))
  return (scale * random.normal(size=shape)).astype(np.float32)


def tensors(shapes):
  """Draws all parameters of `name -> shape`."""
  return {name: tensor(name, shape) for name, shape in shapes.items()}


def image(side):
  """Draws two images [2, side, side, 3]."""
  random = np.random.RandomState(side)
  return random.normal(size=(2, side, side, 3)).astype(np.float32)
