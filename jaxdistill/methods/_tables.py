"""Class probabilities remembered for every training example, whole or compressed.

A table of all classes in float32 takes 20 MB for CIFAR-100 and 5.1 GB for ImageNet;
half precision halves that, and the k most probable classes alone take k/C of it. Its
rows are split over the devices.
"""

import jax
import jax.numpy as jnp

from jaxdistill.core.types import PyTree, Table
from jaxdistill.errors import require, require_choice

DTYPES = ("float32", "float16", "bfloat16")

# The number of rows is a multiple of this, so that tables can be split evenly and are
# the same on 1 to 1024 devices.
_ROWS = 1024


def create(
  num_examples: int,
  num_classes: int,
  lead: tuple[int, ...] = (),
  *,
  dtype: str = "float32",
  top_k: int = 0,
) -> PyTree:
  """Returns an empty table: reading a row that was never written gives zeros.

  Args:
    num_examples: N.
    num_classes: C.
    lead: axes between example and class, such as (M,) for a distribution per member.
    dtype: of the probabilities: float32, float16 or bfloat16.
    top_k: classes to keep of each distribution, the most probable; the rest of the mass
      is read back evenly spread over the other classes. 0 keeps all.

  Returns:
    A pytree of `Table`.

  Raises:
    ConfigError: for another dtype, or a `top_k` outside 0..C-1.
  """
  require_choice(dtype=(dtype, DTYPES))
  require(
    0 <= top_k < num_classes, f"top_k must lie in 0..{num_classes - 1}, got {top_k}"
  )
  rows = -(-num_examples // _ROWS) * _ROWS
  if not top_k:
    return {"probability": Table(jnp.zeros((rows, *lead, num_classes), dtype))}
  class_dtype = jnp.uint16 if num_classes <= 2**16 else jnp.uint32
  return {
    "probability": Table(jnp.zeros((rows, *lead, top_k), dtype)),
    "class": Table(jnp.zeros((rows, *lead, top_k), class_dtype)),
  }


def read(table: PyTree, index: jax.Array, num_classes: int) -> jax.Array:
  """Reads distributions.

  Args:
    table: from `create`.
    index: i32[B] examples.
    num_classes: C.

  Returns:
    f32[B, ..., C], summing to one, or to zero where nothing was written yet.
  """
  stored = table["probability"].rows
  kept = stored[index].astype(jnp.float32)
  if "class" in table:
    classes = table["class"].rows[index].astype(jnp.int32)
    return _normalized(_spread(kept, classes, num_classes))
  if stored.dtype == jnp.float32:
    return kept
  # Rounded probabilities do not sum to one any more.
  return _normalized(kept)


def write(
  table: PyTree, index: jax.Array, probabilities: jax.Array, mask: jax.Array
) -> PyTree:
  """Writes distributions.

  Args:
    table: from `create`.
    index: i32[B] examples.
    probabilities: f32[B, ..., C].
    mask: f32[B], 0 for rows that are not written.

  Returns:
    The new table.
  """
  stored = table["probability"]
  # An index past the end is dropped.
  index = jnp.where(mask > 0, index, stored.rows.shape[0])
  if "class" not in table:
    return {"probability": _put(stored, index, probabilities)}
  kept, classes = jax.lax.top_k(probabilities, stored.rows.shape[-1])
  return {
    "probability": _put(stored, index, kept),
    "class": _put(table["class"], index, classes),
  }


def _put(table: Table, index: jax.Array, values: jax.Array) -> Table:
  """Puts values into the rows at `index`, rounded to the table's type."""
  rounded = values.astype(table.rows.dtype)
  return Table(table.rows.at[index].set(rounded, mode="drop"))


def _spread(kept: jax.Array, classes: jax.Array, num_classes: int) -> jax.Array:
  """Spreads what the kept classes leave evenly over the others.

  Args:
    kept: f32[B, ..., k] probabilities.
    classes: i32[B, ..., k] the classes they belong to.
    num_classes: C.

  Returns:
    f32[B, ..., C], not normalised.
  """
  mass = kept.sum(axis=-1, keepdims=True)
  left = jnp.where(mass > 0, jnp.maximum(1 - mass, 0), 0)
  rest = left / (num_classes - kept.shape[-1])
  whole = jnp.broadcast_to(rest, (*kept.shape[:-1], num_classes))
  return jnp.put_along_axis(whole, classes, kept, axis=-1, inplace=False)


def _normalized(probabilities: jax.Array) -> jax.Array:
  """Divides distributions by their sum; one that was never written stays zero."""
  total = probabilities.sum(axis=-1, keepdims=True)
  return probabilities / jnp.maximum(total, 1e-6)
