"""Weights and images drawn from names, the same in every version of NumPy, here and where the references are recorded."""

import zlib

import numpy as np


def tensor(name, shape):
  """Draws a parameter or statistic in PyTorch's layout, from its published name: the same values everywhere."""
  random = np.random.RandomState(zlib.crc32(name.encode()))  # this stream is frozen; default_rng's may change
  leaf = name.rpartition(".")[2]
  if leaf == "running_var" or (leaf == "weight" and len(shape) == 1) or leaf in ("D", "D_b"):
    return random.uniform(0.5, 1.5, shape).astype(np.float32)
  if leaf.endswith("_log"):
    return random.uniform(0, 1, shape).astype(np.float32)
  scale = np.sqrt(2 / np.prod(shape[1:])) if leaf == "weight" else 0.1
  return (scale * random.normal(size=shape)).astype(np.float32)


def tensors(shapes):
  """Draws all parameters of `name -> shape`."""
  return {name: tensor(name, shape) for name, shape in shapes.items()}


def image(side):
  """Draws two images [2, side, side, 3]."""
  return np.random.RandomState(side).normal(size=(2, side, side, 3)).astype(np.float32)
