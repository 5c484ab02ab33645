"""Random images of CIFAR's shape, for timing."""

import numpy as np

from jaxdistill import data as datasets


def cifar(*, examples: int = 5000, num_classes: int = 100) -> datasets.Dataset:
  """Makes `examples` random training images and a tenth as many test images."""
  rng = np.random.default_rng(0)
  split = lambda n: (rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), rng.integers(0, num_classes, n))
  return datasets.checked("random", split(examples), split(examples // 10), num_classes)
