"""Named random streams: a key is folded by step and by name, never split and carried.

Every draw is therefore a pure function of (seed, step, name), which is what makes a
resumed run equal to an uninterrupted one.
"""

import zlib

import jax


def stream_id(name: str) -> int:
  """Returns the 32-bit number that stands for a stream's name.

  Args:
    name: what is drawn: "augment", a member's name, ...
  """
  return zlib.crc32(name.encode())


def stream(key: jax.Array, name: str) -> jax.Array:
  """Returns the key of a named stream.

  Args:
    key: the step's key, or that of another stream.
    name: what is drawn; streams with different names do not depend on each other.
  """
  return jax.random.fold_in(key, stream_id(name))
