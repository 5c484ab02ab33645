"""Applies the operations of the pool, one after the other."""

from collections.abc import Mapping
from typing import NamedTuple

import jax

from jaxdistill.core import rng
from jaxdistill.core.types import Augment, AugmentOp, Mix
from jaxdistill.errors import require
from jaxdistill.inputs.normalize import to_float

# They draw from the step's key itself, each from another part of it, as they did while
# they were one operation: runs that were begun then go on bit for bit.
_OF_ONE_KEY = ("pad_crop", "hflip", "cutout")


class Augmentation(NamedTuple):
  """What a pool does to a batch.

  Attributes:
    augment: changes each image by itself; its result is f32 in [0, 1].
    mix: mixes the images of a batch, or None.
  """

  augment: Augment
  mix: Mix | None


def make_augment(ops: Mapping[str, AugmentOp]) -> Augmentation:
  """Returns the augmentation of all members' images.

  Args:
    ops: name -> operation, in the order in which they are applied.

  Raises:
    ConfigError: if an operation that mixes images is not the last one.
  """
  each: dict[str, Augment] = {}
  mix = None
  for name, op in ops.items():
    require(
      mix is None,
      f"augment.ops: {name} comes after an operation that mixes images, which must be "
      "the last one",
    )
    if isinstance(op, Mix):
      mix = op
    else:
      each[name] = op

  def augment(key: jax.Array, image: jax.Array, /) -> jax.Array:
    for name, op in each.items():
      op_key = key
      if name not in _OF_ONE_KEY:
        op_key = rng.stream(key, name)
      image = op(op_key, image)
    return to_float(image)

  return Augmentation(augment=augment, mix=mix)
