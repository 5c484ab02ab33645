"""Pooling and classifiers at the end of a network."""

from collections.abc import Iterator
import contextlib
import contextvars
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.types import ModelOutput
from jaxdistill.errors import require


def classify(
  x: jax.Array, features: dict[str, jax.Array], num_classes: int, name: str = "fc"
) -> ModelOutput:
  """Classifies a map, averaged over its positions, or a vector; in float32.

  To be called inside an `nn.compact` method.

  Args:
    x: [B, H, W, D] map, or [B, D].
    features: what the output shall have besides "pooled", the classifier's input.
    num_classes: C.
    name: of the classifier.
  """
  pooled = x.astype(jnp.float32)
  if pooled.ndim == 4:
    pooled = pooled.mean(axis=(1, 2))
  logits = nn.Dense(num_classes, name=name)(pooled)
  return ModelOutput(logits, {**features, "pooled": pooled})


def require_side(image: jax.Array, smallest: int) -> None:
  """Checks that images would leave something of the map before the classifier.

  Args:
    image: [B, H, W, 3].
    smallest: the least number of pixels along a side.

  Raises:
    ConfigError: if they are smaller.
  """
  height, width = image.shape[1:3]
  require(
    min(height, width) >= smallest,
    f"the images have {height}x{width} pixels, this network needs {smallest} a side; "
    "some take stem='cifar' for small images",
  )


_PADDED_APART = contextvars.ContextVar("padded_apart", default=False)


@contextlib.contextmanager
def padded_apart() -> Iterator[None]:
  """Inside, maps are padded before they are max-pooled.

  For converters of programs that forget the paddings of a pooling.
  """
  token = _PADDED_APART.set(True)
  try:
    yield
  finally:
    _PADDED_APART.reset(token)


def max_pool(
  x: jax.Array, window: int, stride: int, padding: int = 0, ceil: bool = False
) -> jax.Array:
  """Max-pools a map.

  Args:
    x: [B, H, W, D].
    window: side of the window.
    stride: step between windows.
    padding: positions added on every side.
    ceil: whether the last window may reach over the edge, as in Caffe.

  Returns:
    [B, H', W', D].
  """
  borders = []
  for side in x.shape[1:3]:
    beyond = 0
    if ceil:
      beyond = -(side + 2 * padding - window) % stride
    borders.append((padding, padding + beyond))
  if _PADDED_APART.get():
    x = jnp.pad(x, [(0, 0), *borders, (0, 0)], constant_values=-jnp.inf)
    borders = [(0, 0), (0, 0)]
  return nn.max_pool(
    x,
    window_shape=(window, window),
    strides=(stride, stride),
    padding=borders,  # pyright: ignore[reportArgumentType]: Flax knows numbers as well
  )


def adaptive_mean(x: jax.Array, side: int) -> jax.Array:
  """Averages a map over a grid of cells.

  Cells overlap where the map's size does not divide by theirs.

  Args:
    x: [B, H, W, D].
    side: number of cells along each side.

  Returns:
    [B, side, side, D].
  """
  height, width = x.shape[1:3]
  if (height, width) == (side, side):
    return x
  rows = _cell_weights(height, side)
  columns = _cell_weights(width, side)
  return jnp.einsum("ih,bhwd,jw->bijd", rows, x, columns).astype(x.dtype)


def _cell_weights(size: int, cells: int) -> np.ndarray:
  """Returns with which weight every position of an axis counts for every cell."""
  weights = np.zeros((cells, size), np.float32)
  for i in range(cells):
    start = i * size // cells
    # Rounded up.
    end = -(-(i + 1) * size // cells)
    weights[i, start:end] = 1 / (end - start)
  return weights


def classify_cells(
  x: jax.Array,
  features: dict[str, jax.Array],
  num_classes: int,
  side: int,
  hidden: int,
  dropout: dict[str, float],
  train: bool,
) -> ModelOutput:
  """Classifies a map by linear layers with ReLU between them, as AlexNet and VGG do.

  The last layer computes in float32. Weights are drawn as for VGG in torchvision. To be
  called inside an `nn.compact` method; needs the random stream "dropout" if a rate is
  not 0.

  Args:
    x: [B, H, W, D] map, in the computation dtype.
    features: what the output shall have besides "pooled", the input of the last layer.
    num_classes: C.
    side: of the grid of cells that the map is averaged over first.
    hidden: outputs of every layer but the last.
    dropout: name of each layer -> rate at which its inputs are dropped in training.
    train: whether to drop them.
  """

  def linear(count: int, dtype: Any, name: str) -> nn.Dense:
    draw = nn.initializers.normal(0.01)
    return nn.Dense(count, dtype=dtype, kernel_init=draw, name=name)

  def dropped(x: jax.Array, name: str) -> jax.Array:
    return nn.Dropout(dropout[name], deterministic=not train)(x)

  *inner, last = dropout
  dtype = x.dtype
  # PyTorch flattens channel by channel; in this order published weights fit.
  channels_first = jnp.moveaxis(adaptive_mean(x, side), -1, 1)
  x = channels_first.reshape(x.shape[0], -1)
  for name in inner:
    x = linear(hidden, dtype, name)(dropped(x, name))
    x = nn.relu(x)
  pooled = dropped(x, last).astype(jnp.float32)
  logits = linear(num_classes, jnp.float32, last)(pooled)
  return ModelOutput(logits, {**features, "pooled": pooled})
