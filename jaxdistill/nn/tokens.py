"""Blocks of networks that work on tokens."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.errors import require
from jaxdistill.nn.conv import member_conv


def resize_images(image: jax.Array, side: int) -> jax.Array:
  """Resizes images bilinearly to squares.

  Args:
    image: [B, H, W, 3].
    side: pixels of a side; 0 leaves the images as they are.

  Returns:
    [B, side, side, 3].
  """
  batch, height, width, channels = image.shape
  if not side or (height, width) == (side, side):
    return image
  return jax.image.resize(image, (batch, side, side, channels), "bilinear")


class DropPath(nn.Module):
  """Stochastic depth: in training, drops a residual branch for random examples.

  What is kept is divided by 1 - rate. Needs the random stream "dropout".

  Attributes:
    rate: probability with which an example's branch is dropped.

  Reference:
    G. Huang, Y. Sun, Z. Liu, D. Sedra, K. Weinberger: Deep Networks with Stochastic
      Depth. ECCV 2016.
  """

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Returns the branch [B, ...], zeros for examples that are dropped."""
    if not train or not self.rate:
      return x
    one_per_example = (x.shape[0],) + (1,) * (x.ndim - 1)
    key = self.make_rng("dropout")
    kept = jax.random.bernoulli(key, 1 - self.rate, one_per_example)
    return jnp.where(kept, x / (1 - self.rate), 0).astype(x.dtype)


# timm's truncated normal distribution is cut at a hundred times its deviation.
_TOKEN_INIT = nn.initializers.normal(0.02)


def layer_norm(dtype: Any = jnp.float32, *, name: str | None = None) -> nn.LayerNorm:
  """Returns layer normalisation with the epsilon of vision transformers.

  Args:
    dtype: computation dtype.
    name: of the module.
  """
  return nn.LayerNorm(epsilon=1e-6, dtype=dtype, use_fast_variance=False, name=name)


def token_dense(
  features: int, dtype: Any = jnp.float32, *, name: str | None = None
) -> nn.Dense:
  """Returns a linear layer with the initial weights of vision transformers.

  Args:
    features: number of outputs.
    dtype: computation dtype.
    name: of the module.
  """
  return nn.Dense(features, dtype=dtype, kernel_init=_TOKEN_INIT, name=name)


def patches(
  x: jax.Array,
  dim: int,
  patch: int,
  dtype: Any = jnp.float32,
  *,
  name: str | None = None,
) -> jax.Array:
  """Projects each patch of a map.

  To be called inside an `nn.compact` method.

  Args:
    x: [B, H, W, F] map.
    dim: D, length of a patch's vector.
    patch: positions along each side of a patch.
    dtype: computation dtype.
    name: of the projection.

  Returns:
    [B, H / patch, W / patch, D].

  Raises:
    ConfigError: if the patches do not fill the map evenly.
  """
  height, width = x.shape[1:3]
  require(
    height % patch == 0 and width % patch == 0,
    f"patch must divide the sides of the {height}x{width} input, got {patch}; "
    "resize can change them",
  )
  projection = nn.Conv(
    dim,
    kernel_size=(patch, patch),
    strides=(patch, patch),
    padding=((0, 0), (0, 0)),
    dtype=dtype,
    conv_general_dilated=member_conv,
    kernel_init=nn.initializers.lecun_normal(),
    name=name,
  )
  return projection(x)


def embed_tokens(param: Callable[..., jax.Array], x: jax.Array) -> jax.Array:
  """Returns a map as tokens, the class token before them, positions added.

  Args:
    param: the `param` of the network that owns the parameters `cls_token` and
      `pos_embed`.
    x: [B, H, W, D] map.

  Returns:
    [B, 1 + H * W, D].
  """
  batch, height, width, dim = x.shape
  count = height * width
  first = param("cls_token", _TOKEN_INIT, (1, 1, dim)).astype(x.dtype)
  positions = param("pos_embed", _TOKEN_INIT, (1, 1 + count, dim)).astype(x.dtype)
  class_tokens = jnp.broadcast_to(first, (batch, 1, dim))
  tokens = x.reshape(batch, count, dim)
  return jnp.concatenate([class_tokens, tokens], axis=1) + positions


def stage_ended(block: int, depth: int) -> str | None:
  """Names the stage that ends with a block, in a network without stages of its own.

  Quarters of the blocks are called stages; with fewer than four blocks each is one.

  Args:
    block: its number, from 0.
    depth: number of blocks.

  Returns:
    "stage1" to "stage4", or None if the block does not end one.
  """
  stages = min(4, depth)
  for stage in range(1, stages + 1):
    last_block = depth * stage // stages - 1
    if block == last_block:
      return f"stage{stage}"
  return None


class Attention(nn.Module):
  """Multi-head self-attention over tokens [B, N, D].

  Reference:
    A. Vaswani, N. Shazeer, N. Parmar, J. Uszkoreit, L. Jones, A. N. Gomez, L. Kaiser,
      I. Polosukhin: Attention Is All You Need. NeurIPS 2017.

  Attributes:
    heads: number of heads, between which the channels are split evenly.
    dropout: rate after the projection.
    last: whether only the last token queries, so that the result is [B, 1, D].
    dtype: computation dtype.
  """

  heads: int
  dropout: float = 0.0
  last: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Returns what every token, or the last one, gathers from all: [B, N or 1, D]."""
    batch, count, dim = x.shape
    qkv = token_dense(3 * dim, self.dtype, name="qkv")(x)
    qkv = qkv.reshape(batch, count, 3, self.heads, dim // self.heads)
    query = qkv[:, :, 0]
    key = qkv[:, :, 1]
    value = qkv[:, :, 2]
    if self.last:
      query = query[:, -1:]
    gathered = jax.nn.dot_product_attention(query, key, value)
    x = gathered.reshape(batch, -1, dim)
    x = token_dense(dim, self.dtype, name="proj")(x)
    return nn.Dropout(self.dropout, deterministic=not train)(x)


class Mlp(nn.Module):
  """The feed-forward network of a transformer, with four times the channels inside.

  Attributes:
    dropout: rate after either linear layer.
    dtype: computation dtype.
  """

  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Returns every token of [B, N, D], transformed by itself."""
    dim = x.shape[-1]
    x = token_dense(4 * dim, self.dtype, name="fc1")(x)
    x = nn.gelu(x, approximate=False)
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    x = token_dense(dim, self.dtype, name="fc2")(x)
    return nn.Dropout(self.dropout, deterministic=not train)(x)
