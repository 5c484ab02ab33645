"""Pooling and classifiers at the end of a network."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.types import ModelOutput
from jaxdistill.errors import require


def classify(
  x: jax.Array, features: dict[str, jax.Array], num_classes: int, name: str = "fc"
) -> ModelOutput:
  """Pools a map [B, H, W, D] over its positions, or takes a vector [B, D], and classifies it, in float32."""
  x = x.astype(jnp.float32)
  pooled = x.mean(axis=(1, 2)) if x.ndim == 4 else x
  logits = nn.Dense(num_classes, name=name)(pooled)
  return ModelOutput(logits, {**features, "pooled": pooled})


def require_side(image: jax.Array, smallest: int) -> None:
  """Raises `ConfigError` for images [B, H, W, 3] that would leave nothing of the map before the classifier."""
  height, width = image.shape[1:3]
  require(
    min(height, width) >= smallest,
    f"the images have {height}x{width} pixels, this network needs {smallest} a side; "
    "some take stem='cifar' for small images",
  )


def max_pool(
  x: jax.Array, window: int, stride: int, padding: int = 0, ceil: bool = False
) -> jax.Array:
  """Max-pools a map [B, H, W, D]; with `ceil` the last window may reach over the edge, as in Caffe."""
  extra = [
    -(side + 2 * padding - window) % stride if ceil else 0 for side in x.shape[1:3]
  ]
  return nn.max_pool(
    x, (window, window), (stride, stride), [(padding, padding + more) for more in extra]
  )


def adaptive_mean(x: jax.Array, side: int) -> jax.Array:
  """Averages a map [B, H, W, D] over a grid of side by side cells, which overlap where its size does not divide."""

  def cells(size: int) -> np.ndarray:
    weights = np.zeros((side, size), np.float32)
    for i in range(side):
      start, end = i * size // side, -(-(i + 1) * size // side)
      weights[i, start:end] = 1 / (end - start)
    return weights

  if x.shape[1:3] == (side, side):
    return x
  return jnp.einsum("ih,bhwd,jw->bijd", cells(x.shape[1]), x, cells(x.shape[2])).astype(
    x.dtype
  )


def classify_cells(
  x: jax.Array,
  features: dict[str, jax.Array],
  num_classes: int,
  side: int,
  hidden: int,
  dropout: dict[str, float],
  train: bool,
) -> ModelOutput:
  """Classifies a map by linear layers with ReLU between them, as AlexNet and VGG do; the last one in float32.

  Their weights are drawn as for VGG in torchvision. Needs the random stream "dropout"
  if a rate is not 0.

  Args:
    x: [B, H, W, D] map, in the type of the arithmetic.
    features: what the output shall have besides "pooled", the input of the last layer.
    num_classes: C.
    side: of the grid of cells that the map is averaged over first.
    hidden: outputs of every layer but the last.
    dropout: name of each layer -> share of its inputs that are dropped in training.
    train: whether to drop them.
  """
  *inner, last = dropout
  drop = lambda x, name: nn.Dropout(dropout[name], deterministic=not train)(x)
  linear = lambda count, dtype, name: nn.Dense(
    count, dtype=dtype, kernel_init=nn.initializers.normal(0.01), name=name
  )
  dtype = x.dtype
  # PyTorch flattens channel by channel; in this order published weights fit.
  x = jnp.moveaxis(adaptive_mean(x, side), -1, 1).reshape(x.shape[0], -1)
  for name in inner:
    x = nn.relu(linear(hidden, dtype, name)(drop(x, name)))
  pooled = drop(x, last).astype(jnp.float32)
  return ModelOutput(
    linear(num_classes, jnp.float32, last)(pooled), {**features, "pooled": pooled}
  )
