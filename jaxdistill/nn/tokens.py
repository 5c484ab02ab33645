"""Blocks of networks that work on tokens."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdistill.errors import require
from jaxdistill.nn.conv import member_conv


def resize_images(image: jax.Array, side: int) -> jax.Array:
  """Resizes images [B, H, W, 3] bilinearly to squares of `side` pixels; 0 leaves them as they are."""
  if not side or image.shape[1:3] == (side, side):
    return image
  return jax.image.resize(
    image, (image.shape[0], side, side, image.shape[3]), "bilinear"
  )


class DropPath(nn.Module):
  """Stochastic depth: in training, drops a residual branch for a random share `rate` of the examples.

  What is kept is divided by 1 - rate. Needs the random stream "dropout".

  Reference:
    G. Huang, Y. Sun, Z. Liu, D. Sedra, K. Weinberger: Deep Networks with Stochastic
      Depth. ECCV 2016.
  """

  rate: float

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    if not train or not self.rate:
      return x
    kept = jax.random.bernoulli(
      self.make_rng("dropout"), 1 - self.rate, (x.shape[0], *(1,) * (x.ndim - 1))
    )
    return jnp.where(kept, x / (1 - self.rate), 0).astype(x.dtype)


# timm's truncated normal distribution is cut at a hundred times its deviation.
_TOKEN_INIT = nn.initializers.normal(0.02)


def layer_norm(dtype: Any = jnp.float32, *, name: str | None = None) -> nn.LayerNorm:
  """Returns layer normalisation with the epsilon of vision transformers."""
  return nn.LayerNorm(epsilon=1e-6, dtype=dtype, use_fast_variance=False, name=name)


def token_dense(
  features: int, dtype: Any = jnp.float32, *, name: str | None = None
) -> nn.Dense:
  """Returns a linear layer with the initial weights of vision transformers."""
  return nn.Dense(features, dtype=dtype, kernel_init=_TOKEN_INIT, name=name)


def patches(
  x: jax.Array,
  dim: int,
  patch: int,
  dtype: Any = jnp.float32,
  *,
  name: str | None = None,
) -> jax.Array:
  """Projects each patch of patch by patch positions of a map [B, H, W, F]: [B, H / patch, W / patch, dim].

  Raises:
    ConfigError: if the patches do not fill the map evenly.
  """
  height, width = x.shape[1:3]
  require(
    height % patch == 0 and width % patch == 0,
    f"patch must divide the sides of the {height}x{width} input, got {patch}; resize can change them",
  )
  return nn.Conv(
    dim,
    (patch, patch),
    (patch, patch),
    padding=((0, 0), (0, 0)),
    dtype=dtype,
    conv_general_dilated=member_conv,
    kernel_init=nn.initializers.lecun_normal(),
    name=name,
  )(x)


def embed_tokens(param: Callable[..., jax.Array], x: jax.Array) -> jax.Array:
  """Makes tokens [B, 1 + H * W, D] of a map [B, H, W, D]: the class token before them, positions added.

  Args:
    param: the `param` of the network that owns the parameters `cls_token` and
      `pos_embed`.
    x: the map.
  """
  batch, height, width, dim = x.shape
  first = param("cls_token", _TOKEN_INIT, (1, 1, dim)).astype(x.dtype)
  positions = param("pos_embed", _TOKEN_INIT, (1, 1 + height * width, dim)).astype(
    x.dtype
  )
  x = jnp.concatenate(
    [jnp.broadcast_to(first, (batch, 1, dim)), x.reshape(batch, height * width, dim)],
    axis=1,
  )
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
    A. Vaswani, N. Shazeer, N. Parmar, J. Uszkoreit, L. Jones, A. N. Gomez, L. Kaiser,
      I. Polosukhin: Attention
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
    qkv = token_dense(3 * dim, self.dtype, name="qkv")(x).reshape(
      batch, count, 3, self.heads, dim // self.heads
    )
    query = qkv[:, -1:, 0] if self.last else qkv[:, :, 0]
    x = jax.nn.dot_product_attention(query, qkv[:, :, 1], qkv[:, :, 2]).reshape(
      batch, -1, dim
    )
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
    return nn.Dropout(self.dropout, deterministic=not train)(
      token_dense(dim, self.dtype, name="fc2")(x)
    )
