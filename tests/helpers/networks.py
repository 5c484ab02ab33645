"""Checks of networks: shapes without computing, random variables, stacked members."""

import jax
import jax.numpy as jnp
import numpy as np


def shapes(model, side, batch=2):
  """Returns a network's output and variables as shapes and dtypes."""
  keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}

  def init():
    image = jnp.zeros((batch, side, side, 3))
    return model.init_with_output(keys, image, train=True)

  return jax.eval_shape(init)


def size(model, side):
  """Returns the number of a network's parameters."""
  _, variables = shapes(model, side)
  return sum(x.size for x in jax.tree.leaves(variables["params"]))


def draw(rng, tree, members=()):
  """Returns random values for variables, with `members` as leading axes.

  Weights keep the scale of the maps; scales and variances are not 1.
  """

  def leaf(path, x):
    name = path[-1].key
    shape = (*members, *x.shape)
    if name in ("scale", "var"):
      return jnp.float32(rng.uniform(0.5, 1.5, shape))
    scale = 0.3
    if name == "kernel":
      scale = np.sqrt(2 / np.prod(x.shape[:-1]))
    return jnp.float32(scale * rng.normal(size=shape))

  return jax.tree_util.tree_map_with_path(leaf, tree)


def images(rng, side, batch):
  """Returns random images [batch, side, side, 3]."""
  return jnp.float32(rng.normal(size=(batch, side, side, 3)))


def check_shapes(model, side, maps, pooled, dtype):
  """Checks all shapes and dtypes of a network with seven classes.

  Args:
    model: the network.
    side: of the images.
    maps: feature -> shape without the batch.
    pooled: size of the feature "pooled".
    dtype: computation dtype.
  """
  output, variables = shapes(model, side)
  assert output.logits.shape == (2, 7)
  assert output.logits.dtype == jnp.float32
  expected = {key: ((2, *shape), jnp.dtype(dtype)) for key, shape in maps.items()}
  expected["pooled"] = ((2, pooled), jnp.float32)
  assert {key: (x.shape, x.dtype) for key, x in output.features.items()} == expected
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}


def named_maps(sides, channels):
  """Returns "stem", "stage1", ... -> (side, side, channels)."""
  names = ["stem", *(f"stage{k}" for k in range(1, len(sides)))]
  maps = zip(names, sides, channels, strict=True)
  return {name: (side, side, count) for name, side, count in maps}


def check_stacked(rng, model, side, tolerance=1e-4):
  """Checks that two stacked members compute what either computes alone.

  That is the logits, the gradients and the new batch statistics.

  Returns:
    The gradients, leaves [2, ...].
  """
  _, structure = shapes(model, side)
  variables = draw(rng, structure, members=(2,))
  image = images(rng, side, batch=4)
  keys = jax.random.split(jax.random.key(0), 2)

  @jax.jit
  def run(variables, key):
    def loss(params):
      output, updated = model.apply(
        {**variables, "params": params},
        image,
        train=True,
        rngs={"dropout": key},
        mutable=["batch_stats"],
      )
      return jnp.mean(output.logits**2), (output.logits, updated)

    return jax.value_and_grad(loss, has_aux=True)(variables["params"])

  stacked = jax.jit(jax.vmap(run))(variables, keys)
  (_, (_, updated)), gradients = stacked

  # Training moved every statistic, and the gradients are not all zero.
  before = jax.tree.leaves(variables.get("batch_stats", {}))
  after = jax.tree.leaves(updated)
  for old, new in zip(before, after, strict=True):
    assert np.abs(old - new).max() > 0
  assert max(np.abs(g).max() for g in jax.tree.leaves(gradients)) > 1e-2

  for k in range(2):
    alone = run(jax.tree.map(lambda leaf, k=k: leaf[k], variables), keys[k])
    pairs = zip(jax.tree.leaves(stacked), jax.tree.leaves(alone), strict=True)
    for found, expected in pairs:
      limit = tolerance * (1 + np.abs(expected).max())
      np.testing.assert_allclose(found[k], expected, atol=limit)
  return gradients
