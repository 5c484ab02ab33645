"""A split of the data set on the devices: all of it, or one batch that was read."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from flax import struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from jaxdistill.engine import sharding


def padded_batches(
  num_examples: int, batch_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Yields (index i32[B], mask f32[B]) that cover every example once.

  The last batch is padded with examples whose mask is 0.
  """
  for start in range(0, num_examples, batch_size):
    index = np.arange(start, start + batch_size)
    mask = index < num_examples
    yield np.minimum(index, num_examples - 1).astype(np.int32), mask.astype(np.float32)


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

  def parts(
    self, batch_size: int, start: int = 0, count: int | None = None
  ) -> Iterator["Part"]:
    """Yields batches that cover `count` examples from `start` on; None: all of them."""
    if count is None:
      count = len(self.label)
    for index, mask in padded_batches(count, batch_size):
      yield Part(split=self, index=index + np.int32(start), mask=mask)


@struct.dataclass
class Delivered:
  """A batch that was read, whose rows are split over the devices.

  It stands in the place of a `Resident`, for the examples of this batch alone.

  Attributes:
    image: uint8[B, H, W, 3].
    label: i32[B].
    index: i32[B] row of each example in its split.
    mask: f32[B] 1 for an example, 0 for padding and for what could not be read.
  """

  image: jax.Array | np.ndarray
  label: jax.Array | np.ndarray
  index: jax.Array | np.ndarray
  mask: jax.Array | np.ndarray

  def take(self, index: jax.Array | np.ndarray) -> tuple[Any, Any]:
    """Returns (images uint8[B, H, W, 3], labels i32[B]) of its examples.

    Args:
      index: i32[B] theirs.
    """
    assert len(index) == len(self.label), "a batch that was read is taken whole"
    return self.image, self.label


class Part(NamedTuple):
  """A batch of a split that is covered once.

  Attributes:
    split: to `take` it from.
    index: i32[B] rows of its examples.
    mask: f32[B] 1 for an example, 0 for padding and for what could not be read.
  """

  split: Resident | Delivered
  index: np.ndarray
  mask: np.ndarray | jax.Array


def put_resident(mesh: Mesh, image: np.ndarray, label: np.ndarray) -> Resident:
  """Copies a split to every device of a mesh.

  Args:
    mesh: devices.
    image: uint8[N, H, W, 3].
    label: i32[N].
  """
  return sharding.put_replicated(mesh, Resident.flatten(image, label))


def delivered_shapes(mesh: Mesh, batch_size: int, shape: tuple[int, ...]) -> Delivered:
  """Returns shapes, dtypes and placement of a batch that will be read.

  Args:
    mesh: devices.
    batch_size: B.
    shape: (H, W, 3).
  """
  placement = sharding.shard_over_rows(mesh)

  def rows(dtype: Any, *sizes: int) -> Any:
    return jax.ShapeDtypeStruct((batch_size, *sizes), dtype, sharding=placement)

  return Delivered(
    image=rows(jnp.uint8, *shape),
    label=rows(jnp.int32),
    index=rows(jnp.int32),
    mask=rows(jnp.float32),
  )
