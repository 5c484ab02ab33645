"""Random images of CIFAR's shape, for timing."""

import numpy as np

from jaxdistill.data import Dataset, checked


def cifar(*, examples: int = 5000, num_classes: int = 100) -> Dataset:
  """Returns `examples` random training images and a tenth as many test images."""
  rng = np.random.default_rng(0)

  def split(count: int) -> tuple[np.ndarray, np.ndarray]:
    images = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    return images, rng.integers(0, num_classes, count)

  return checked(
    "random",
    train=split(examples),
    test=split(examples // 10),
    num_classes=num_classes,
  )
