"""What the tests of networks share: shapes without computing, random variables, members stacked against alone."""

import jax
import jax.numpy as jnp
import numpy as np


def shapes(model, side, batch=2):
  """Output and variables of a network as shapes and types, without computing them."""
  keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
  return jax.eval_shape(
    lambda: model.init_with_output(keys, jnp.zeros((batch, side, side, 3)), train=True)
  )


def size(model, side):
  """Number of a network's parameters."""
  return sum(x.size for x in jax.tree.leaves(shapes(model, side)[1]["params"]))


def draw(rng, tree, members=()):
  """Random values for variables: weights that keep the scale of the maps, scales and variances that are not 1."""

  def leaf(path, x):
    name, shape = path[-1].key, (*members, *x.shape)
    if name in ("scale", "var"):
      return jnp.float32(rng.uniform(0.5, 1.5, shape))
    scale = np.sqrt(2 / np.prod(x.shape[:-1])) if name == "kernel" else 0.3
    return jnp.float32(scale * rng.normal(size=shape))

  return jax.tree_util.tree_map_with_path(leaf, tree)


def check_shapes(model, side, maps, pooled, dtype):
  """Checks all shapes and types for seven classes; `maps` is feature -> shape without the batch."""
  output, variables = shapes(model, side)
  assert output.logits.shape == (2, 7) and output.logits.dtype == jnp.float32
  expected = {
    **{key: ((2, *shape), jnp.dtype(dtype)) for key, shape in maps.items()},
    "pooled": ((2, pooled), jnp.float32),
  }
  assert {key: (x.shape, x.dtype) for key, x in output.features.items()} == expected
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def named_maps(sides, channels):
  """ "stem", "stage1", ... -> (side, side, channels)."""
  names = ("stem", *(f"stage{k}" for k in range(1, len(sides))))
  return {
    name: (side, side, count)
    for name, side, count in zip(names, sides, channels, strict=True)
  }


def check_stacked(rng, model, side, tolerance=1e-4):
  """Checks that two stacked members give the logits, gradients and new statistics of either alone; returns the gradients."""
  variables = draw(rng, shapes(model, side)[1], members=(2,))
  x, keys = (
    jnp.float32(rng.normal(size=(4, side, side, 3))),
    jax.random.split(jax.random.key(0), 2),
  )

  @jax.jit
  def run(variables, key):
    def loss(params):
      output, updated = model.apply(
        {**variables, "params": params},
        x,
        train=True,
        rngs={"dropout": key},
        mutable=["batch_stats"],
      )
      return jnp.mean(output.logits**2), (output.logits, updated)

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])

  stacked = jax.jit(jax.vmap(run))(variables, keys)
  for before, after in zip(
    *(
      jax.tree.leaves(stats)
      for stats in (variables.get("batch_stats", {}), stacked[0][1][1])
    ),
    strict=True,
  ):
    assert np.abs(before - after).max() > 0
  assert max(np.abs(g).max() for g in jax.tree.leaves(stacked[1])) > 1e-2
  for k in range(2):
    alone = run(jax.tree.map(lambda leaf: leaf[k], variables), keys[k])
    for a, b in zip(jax.tree.leaves(stacked), jax.tree.leaves(alone), strict=True):
      np.testing.assert_allclose(a[k], b, atol=tolerance * (1 + np.abs(b).max()))
  return stacked[1]
