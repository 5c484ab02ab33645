"""Tables of past predictions: what is written comes back, within its precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.engine import sharding
from jaxdistill.errors import ConfigError
from jaxdistill.methods import _tables

CLASSES = 10


def distributions(rng, *shape):
  return jnp.asarray(rng.dirichlet(np.full(CLASSES, 0.3), shape), jnp.float32)


@pytest.mark.parametrize(
  "dtype, bound", [("float32", 0), ("float16", 1e-3), ("bfloat16", 1e-2)]
)
def test_what_is_written_is_read(rng, dtype, bound):
  table = _tables.create(50, CLASSES, (3,), dtype=dtype)
  index = jnp.array([4, 49, 7])
  written = distributions(rng, 3, 3)
  table = _tables.write(table, index, written, jnp.ones(3))
  read = _tables.read(table, index, CLASSES)
  np.testing.assert_allclose(read, written, atol=bound)
  np.testing.assert_allclose(read.sum(-1), 1, atol=1e-6)
  assert (np.abs(read - written).max() > 0) == (bound > 0)


def test_unwritten_and_masked_rows_are_zero(rng):
  for top_k in (0, 2):
    table = _tables.create(50, CLASSES, top_k=top_k)
    index = jnp.array([3, 49, 49])
    mask = jnp.array([1.0, 0.0, 0.0])
    table = _tables.write(table, index, distributions(rng, 3), mask)
    rows = np.asarray(_tables.read(table, jnp.array([3, 49, 5]), CLASSES))
    np.testing.assert_allclose(rows.sum(-1), [1, 0, 0], atol=1e-6)


def test_top_k_keeps_the_largest_and_spreads_the_rest(rng):
  written = distributions(rng, 4)
  table = _tables.create(8, CLASSES, dtype="float32", top_k=3)
  table = _tables.write(table, jnp.arange(4), written, jnp.ones(4))
  read = np.asarray(_tables.read(table, jnp.arange(4), CLASSES))
  for row, original in zip(read, np.asarray(written), strict=True):
    top = np.argsort(-original)[:3]
    np.testing.assert_allclose(row[top], original[top], rtol=1e-5)
    others = np.delete(row, top)
    rest = (1 - original[top].sum()) / (CLASSES - 3)
    np.testing.assert_allclose(others, rest, rtol=1e-4, atol=1e-7)


def test_sizes():
  """Bytes of the tables that the README gives, without the rows that round them up."""

  def megabytes(examples, classes, **kwargs):
    table = jax.eval_shape(lambda: _tables.create(examples, classes, **kwargs))
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(table)) / 1e6

  assert megabytes(50_000, 100) == pytest.approx(20, rel=0.03)
  imagenet = (1_281_167, 1000)
  assert megabytes(*imagenet) == pytest.approx(5125, rel=0.01)
  assert megabytes(*imagenet, dtype="float16") == pytest.approx(2562, rel=0.01)
  few = megabytes(*imagenet, dtype="float16", top_k=20)
  assert few == pytest.approx(102.5, rel=0.01)


@pytest.mark.parametrize("top_k", [0, 2])
def test_no_device_gathers_the_whole_table(rng, top_k):
  """Reading and writing a batch moves its own rows between eight devices.

  Each of them holds an eighth of the table.
  """
  mesh = sharding.make_mesh(8)
  index = jnp.arange(16) * 3
  written = distributions(rng, 16)
  table = _tables.create(20_000, CLASSES, top_k=top_k)
  placement = sharding.state_sharding(mesh, table)
  placed = jax.device_put(table, placement)
  rows = placed["probability"].rows
  assert rows.addressable_shards[0].data.shape[0] * 8 == rows.shape[0]

  def use(table, index, values):
    table = _tables.write(table, index, values, jnp.ones(16))
    return table, _tables.read(table, index, CLASSES)

  batch = jax.device_put((index, written), sharding.shard_over_rows(mesh))
  jitted = jax.jit(use, donate_argnums=0, out_shardings=(placement, None))
  compiled = jitted.lower(placed, *batch).compile()
  whole_table = f"[{rows.shape[0]},"
  gathered = [line for line in compiled.as_text().splitlines() if whole_table in line]
  assert not gathered, gathered[:2]
  _, expected = use(table, index, written)
  np.testing.assert_allclose(compiled(placed, *batch)[1], expected, rtol=1e-6)


def test_bad_arguments():
  with pytest.raises(
    ConfigError, match="dtype must be one of float32, float16, bfloat16, got 'int8'"
  ):
    _tables.create(10, CLASSES, dtype="int8")
  with pytest.raises(ConfigError, match=r"top_k must lie in 0..9, got 10"):
    _tables.create(10, CLASSES, top_k=10)
