"""Blocks shared by the networks."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.convolution import batch_norm, conv, member_conv
from jaxdistill.errors import require
from jaxdistill.types import ModelOutput

__all__ = ["Attention", "DropPath", "Mlp", "adaptive_mean", "batch_norm", "classify", "classify_cells", "conv",
           "embed_tokens", "layer_norm", "max_pool", "member_conv", "patches", "require_side", "resize",
           "stage_ended", "token_dense"]


def classify(x: jax.Array, features: dict[str, jax.Array], num_classes: int, name: str = "fc") -> ModelOutput:
  """Pools a map [B, H, W, D] over its positions, or takes a vector [B, D], and classifies it, in float32."""
  x = x.astype(jnp.float32)
  pooled = x.mean(axis=(1, 2)) if x.ndim == 4 else x
  logits = nn.Dense(num_classes, name=name)(pooled)
  return ModelOutput(logits, {**features, "pooled": pooled})


def require_side(image: jax.Array, smallest: int) -> None:
  """Raises `ConfigError` for images [B, H, W, 3] that would leave nothing of the map before the classifier."""
  height, width = image.shape[1:3]
  require(min(height, width) >= smallest, f"the images have {height}x{width} pixels, this network needs {smallest} a side; "
          "some take stem='cifar' for small images")


def max_pool(x: jax.Array, window: int, stride: int, padding: int = 0, ceil: bool = False) -> jax.Array:
  """Max-pools a map [B, H, W, D]; with `ceil` the last window may reach over the edge, as in Caffe."""
  extra = [-(side + 2 * padding - window) % stride if ceil else 0 for side in x.shape[1:3]]
  return nn.max_pool(x, (window, window), (stride, stride), [(padding, padding + more) for more in extra])


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
  return jnp.einsum("ih,bhwd,jw->bijd", cells(x.shape[1]), x, cells(x.shape[2])).astype(x.dtype)


def resize(image: jax.Array, side: int) -> jax.Array:
  """Resizes images [B, H, W, 3] bilinearly to squares of `side` pixels; 0 leaves them as they are."""
  if not side or image.shape[1:3] == (side, side):
    return image
  return jax.image.resize(image, (image.shape[0], side, side, image.shape[3]), "bilinear")


class DropPath(nn.Module):
  """Stochastic depth: in training, drops a residual branch for a random share `rate` of the examples.

  What is kept is divided by 1 - rate. Needs the random stream "dropout".

  Reference:
    G. Huang, Y. Sun, Z. Liu, D. Sedra, K. Weinberger: Deep Networks with Stochastic Depth. ECCV 2016.
  """

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    if not train or not self.rate:
      return x
    kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.rate, (x.shape[0], *(1,) * (x.ndim - 1)))
    return jnp.where(kept, x / (1 - self.rate), 0).astype(x.dtype)


# timm's truncated normal distribution is cut at a hundred times its deviation.
_TOKEN_INIT = nn.initializers.normal(0.02)


def layer_norm(dtype: Any = jnp.float32, *, name: str | None = None) -> nn.LayerNorm:
  """Returns layer normalisation with the epsilon of vision transformers."""
  return nn.LayerNorm(epsilon=1e-6, dtype=dtype, use_fast_variance=False, name=name)


def token_dense(features: int, dtype: Any = jnp.float32, *, name: str | None = None) -> nn.Dense:
  """Returns a linear layer with the initial weights of vision transformers."""
  return nn.Dense(features, dtype=dtype, kernel_init=_TOKEN_INIT, name=name)


def patches(x: jax.Array, dim: int, patch: int, dtype: Any = jnp.float32, *, name: str | None = None) -> jax.Array:
  """Projects each patch of patch by patch positions of a map [B, H, W, F]: [B, H / patch, W / patch, dim].

  Raises:
    ConfigError: if the patches do not fill the map evenly.
  """
  height, width = x.shape[1:3]
  require(height % patch == 0 and width % patch == 0,
          f"patch must divide the sides of the {height}x{width} input, got {patch}; resize can change them")
  return nn.Conv(dim, (patch, patch), (patch, patch), padding=((0, 0), (0, 0)), dtype=dtype,
                 conv_general_dilated=member_conv, kernel_init=nn.initializers.lecun_normal(), name=name)(x)


def embed_tokens(param: Callable[..., jax.Array], x: jax.Array) -> jax.Array:
  """Makes tokens [B, 1 + H * W, D] of a map [B, H, W, D]: the class token before them, positions added.

  Args:
    param: the `param` of the network that owns the parameters `cls_token` and `pos_embed`.
    x: the map.
  """
  batch, height, width, dim = x.shape
  first = param("cls_token", _TOKEN_INIT, (1, 1, dim)).astype(x.dtype)
  positions = param("pos_embed", _TOKEN_INIT, (1, 1 + height * width, dim)).astype(x.dtype)
  x = jnp.concatenate([jnp.broadcast_to(first, (batch, 1, dim)), x.reshape(batch, height * width, dim)], axis=1)
  return x + positions


def stage_ended(block: int, depth: int) -> str | None:
  """Names the stage that ends with a block, counted from 0, of networks without stages: quarters of the blocks.

  With fewer than four blocks each is a stage. None if the block does not end one.
  """
  stages = min(4, depth)
  ends = [depth * (stage + 1) // stages - 1 for stage in range(stages)]
  return f"stage{ends.index(block) + 1}" if block in ends else None


class Attention(nn.Module):
  """Multi-head self-attention over tokens [B, N, D].

  Reference:
    A. Vaswani, N. Shazeer, N. Parmar, J. Uszkoreit, L. Jones, A. N. Gomez, L. Kaiser, I. Polosukhin: Attention
    Is All You Need. NeurIPS 2017.

  Attributes:
    heads: number of heads, which share the channels evenly.
    dropout: rate after the projection.
    last: whether only the last token asks, so that the result is [B, 1, D].
    dtype: of the arithmetic.
  """

  heads: int
  dropout: float = 0.0
  last: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    batch, count, dim = x.shape
    qkv = token_dense(3 * dim, self.dtype, name="qkv")(x).reshape(batch, count, 3, self.heads, dim // self.heads)
    query = qkv[:, -1:, 0] if self.last else qkv[:, :, 0]
    x = jax.nn.dot_product_attention(query, qkv[:, :, 1], qkv[:, :, 2]).reshape(batch, -1, dim)
    x = token_dense(dim, self.dtype, name="proj")(x)
    return nn.Dropout(self.dropout, deterministic=not train)(x)


class Mlp(nn.Module):
  """The feed-forward network of a transformer, with four times the channels inside.

  Attributes:
    dropout: rate after either linear layer.
    dtype: of the arithmetic.
  """

  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    dim = x.shape[-1]
    x = nn.gelu(token_dense(4 * dim, self.dtype, name="fc1")(x), approximate=False)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    return nn.Dropout(self.dropout, deterministic=not train)(token_dense(dim, self.dtype, name="fc2")(x))


def classify_cells(x: jax.Array, features: dict[str, jax.Array], num_classes: int, side: int, hidden: int,
                   dropout: dict[str, float], train: bool) -> ModelOutput:
  """Classifies a map by linear layers with ReLU between them, as AlexNet and VGG do; the last one in float32.

  Their weights are drawn as for VGG in torchvision. Needs the random stream "dropout" if a rate is not 0.

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
  linear = lambda count, dtype, name: nn.Dense(count, dtype=dtype, kernel_init=nn.initializers.normal(0.01), name=name)
  dtype = x.dtype
  # PyTorch flattens channel by channel; in this order published weights fit.
  x = jnp.moveaxis(adaptive_mean(x, side), -1, 1).reshape(x.shape[0], -1)
  for name in inner:
    x = nn.relu(linear(hidden, dtype, name)(drop(x, name)))
  pooled = drop(x, last).astype(jnp.float32)
  return ModelOutput(linear(num_classes, jnp.float32, last)(pooled), {**features, "pooled": pooled})
