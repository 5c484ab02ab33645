"""Class probabilities remembered for every training example, whole or compressed, split over the devices by rows.

A table of all classes in float32 takes 20 MB for CIFAR-100 and 5.1 GB for ImageNet;
half precision halves that, and the k most probable classes alone take k/C of it.
"""

import jax
import jax.numpy as jnp

from jaxdistill.core.types import PyTree, Table
from jaxdistill.errors import require, require_choice

DTYPES = ("float32", "float16", "bfloat16")

# Tables have a multiple of so many rows, so that they can be split evenly and are the
# same on 1 to 1024 devices.
_ROWS = 1024


def create(
  num_examples: int,
  num_classes: int,
  lead: tuple[int, ...] = (),
  *,
  dtype: str = "float32",
  top_k: int = 0,
) -> PyTree:
  """Makes an empty table: reading a row that was never written gives zeros.

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
  probability = Table(jnp.zeros((rows, *lead, top_k or num_classes), dtype))
  if not top_k:
    return {"probability": probability}
  kind = jnp.uint16 if num_classes <= 2**16 else jnp.uint32
  return {
    "probability": probability,
    "class": Table(jnp.zeros((rows, *lead, top_k), kind)),
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
  if "class" not in table:
    # Rounded probabilities do not sum to one any more.
    return (
      kept
      if stored.dtype == jnp.float32
      else kept / jnp.maximum(kept.sum(axis=-1, keepdims=True), 1e-6)
    )
  mass = kept.sum(axis=-1, keepdims=True)
  rest = jnp.where(mass > 0, jnp.maximum(1 - mass, 0), 0) / (
    num_classes - kept.shape[-1]
  )
  classes = table["class"].rows[index].astype(jnp.int32)
  whole = jnp.broadcast_to(rest, (*kept.shape[:-1], num_classes))
  spread = jnp.put_along_axis(whole, classes, kept, axis=-1, inplace=False)
  # A row that was never written names class 0 again and again, with nothing in it.
  return spread / jnp.maximum(spread.sum(axis=-1, keepdims=True), 1e-6)


def write(
  table: PyTree, index: jax.Array, probabilities: jax.Array, mask: jax.Array
) -> PyTree:
  """Writes distributions f32[B, ..., C] for the examples i32[B] whose mask f32[B] is not 0; returns the new table."""
  stored = table["probability"]
  # An index past the end is dropped.
  index = jnp.where(mask > 0, index, stored.rows.shape[0])
  put = lambda t, values: Table(
    t.rows.at[index].set(values.astype(t.rows.dtype), mode="drop")
  )
  if "class" not in table:
    return {"probability": put(stored, probabilities)}
  kept, classes = jax.lax.top_k(probabilities, stored.rows.shape[-1])
  return {"probability": put(stored, kept), "class": put(table["class"], classes)}
