"""A split of the data set that lives on the devices."""

from typing import Any

from flax import struct
import jax
from jax.sharding import Mesh
import numpy as np

from jaxdistill.engine import sharding


@struct.dataclass
class Resident:
  """Images and labels on every device.

  An image is one row of numbers. On a TPU, an array of images would get a layout that
  the gather of a batch cannot read, and would be copied as a whole for every batch.

  Attributes:
    pixels: uint8[N, H * W * 3].
    label: i32[N].
    shape: (H, W, 3).
  """

  pixels: jax.Array | np.ndarray
  label: jax.Array | np.ndarray
  shape: tuple[int, ...] = struct.field(pytree_node=False)

  @classmethod
  def flatten(cls, image: np.ndarray, label: np.ndarray) -> "Resident":
    """Returns uint8[N, H, W, 3] and their labels, where they are."""
    pixels = image.reshape(len(image), -1)
    return cls(pixels=pixels, label=label, shape=image.shape[1:])

  def take(self, index: jax.Array | np.ndarray) -> tuple[Any, Any]:
    """Returns (images uint8[B, H, W, 3], labels i32[B]) of some examples."""
    rows = self.pixels[index]
    return rows.reshape(len(index), *self.shape), self.label[index]


def put_resident(mesh: Mesh, image: np.ndarray, label: np.ndarray) -> Resident:
  """Copies a split to every device of a mesh.

  Args:
    mesh: devices.
    image: uint8[N, H, W, 3].
    label: i32[N].
  """
  return sharding.put_replicated(mesh, Resident.flatten(image, label))
