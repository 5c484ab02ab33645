"""Vision Transformer.

Modules are named as in timm.

References:
  A. Dosovitskiy, L. Beyer, A. Kolesnikov, D. Weissenborn, X. Zhai, T. Unterthiner, M.
    Dehghani, M. Minderer, G. Heigold, S. Gelly, J. Uszkoreit, N. Houlsby: An Image is
    Worth 16x16 Words: Transformers for Image Recognition at Scale. ICLR 2021, table 1
    (size B).
  H. Touvron, M. Cord, M. Douze, F. Massa, A. Sablayrolles, H. Jegou: Training
    Data-Efficient Image Transformers and Distillation through Attention. ICML 2021,
    table 1 (sizes Ti and S).
"""

from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.types import ModelOutput
from jaxdistill.errors import (
  require,
  require_not_negative,
  require_positive,
  require_rate,
)
from jaxdistill.nn.tokens import (
  Attention,
  DropPath,
  Mlp,
  embed_tokens,
  layer_norm,
  patches,
  resize_images,
  stage_ended,
  token_dense,
)

IMAGE_SIZE = 224


class Block(nn.Module):
  """Attention and a feed-forward network, each on normalised tokens with a shortcut.

  Attributes:
    heads: of the attention.
    drop_path: rate of stochastic depth.
    dropout: rate after linear layers.
    dtype: computation dtype.
  """

  heads: int
  drop_path: float = 0.0
  dropout: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Turns tokens [B, N, D] into tokens of the same shape."""
    y = layer_norm(self.dtype, name="norm1")(x)
    y = Attention(self.heads, self.dropout, dtype=self.dtype, name="attn")(y, train)
    x = x + DropPath(self.drop_path)(y, train)
    y = layer_norm(self.dtype, name="norm2")(x)
    y = Mlp(self.dropout, self.dtype, name="mlp")(y, train)
    return x + DropPath(self.drop_path)(y, train)


class ViT(nn.Module):
  """A Vision Transformer that classifies its class token.

  The features are maps of the patch tokens: "stem" with their positions added, "stage1"
  to "stage4" after each quarter of the blocks (after each block where there are fewer
  than four).

  Attributes:
    num_classes: C.
    dim: channels of a token.
    depth: number of blocks.
    heads: of the attention.
    patch: side of a patch in pixels.
    drop_path: rate of stochastic depth in the last block; it rises linearly from 0 in
      the first.
    dropout: rate after the positions are added and after linear layers.
    resize: side in pixels to which images are resized; 0 leaves them.
    dtype: computation dtype.
  """

  num_classes: int
  dim: int
  depth: int
  heads: int
  patch: int = 16
  drop_path: float = 0.0
  dropout: float = 0.0
  resize: int = 0
  dtype: Any = jnp.float32

  @staticmethod
  def class_position(count: int) -> int:
    """Returns where the class token stands among the patch tokens: before them."""
    del count
    return 0

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    """Classifies images [B, H, W, 3]."""
    image = resize_images(image, self.resize)
    grid = patches(image, self.dim, self.patch, self.dtype, name="patch_embed.proj")
    x = embed_tokens(self.param, grid)
    features = {"stem": x[:, 1:].reshape(grid.shape)}
    x = nn.Dropout(self.dropout, deterministic=not train)(x)
    drop_paths = np.linspace(0, self.drop_path, self.depth)
    for index, drop_path in enumerate(drop_paths):
      block = Block(
        heads=self.heads,
        drop_path=float(drop_path),
        dropout=self.dropout,
        dtype=self.dtype,
        name=f"blocks.{index}",
      )
      x = block(x, train)
      stage = stage_ended(index, self.depth)
      if stage:
        features[stage] = x[:, 1:].reshape(grid.shape)
    class_token = x[:, 0].astype(jnp.float32)
    pooled = layer_norm(name="norm")(class_token)
    features["pooled"] = pooled
    logits = token_dense(self.num_classes, name="head")(pooled)
    return ModelOutput(logits, features)


def vit(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  dim: int = 192,
  depth: int = 12,
  heads: int = 3,
  patch: int = 16,
  drop_path: float = 0.0,
  dropout: float = 0.0,
  resize: int = 0,
) -> nn.Module:
  """Returns a Vision Transformer of any size.

  Args:
    num_classes: C.
    dtype: computation dtype.
    dim: channels of a token.
    depth: number of blocks.
    heads: of the attention.
    patch: side of a patch in pixels.
    drop_path: rate of stochastic depth in the last block; it rises linearly from 0 in
      the first.
    dropout: rate after the positions are added and after linear layers.
    resize: side in pixels to which images are resized; 0 leaves them.

  Raises:
    ConfigError: for sizes less than 1, a dim that the heads do not divide, or rates
      outside [0, 1); when called, for images whose sides are not multiples of the
      patch.
  """
  require_positive(dim=dim, depth=depth, heads=heads, patch=patch)
  require(dim % heads == 0, f"dim must be a multiple of the {heads} heads, got {dim}")
  require_not_negative(resize=resize)
  require_rate(drop_path=drop_path, dropout=dropout)
  return ViT(
    num_classes=num_classes,
    dim=dim,
    depth=depth,
    heads=heads,
    patch=patch,
    drop_path=drop_path,
    dropout=dropout,
    resize=resize,
    dtype=dtype,
  )


def vit_ti(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  patch: int = 16,
  drop_path: float = 0.0,
  dropout: float = 0.0,
  resize: int = 0,
) -> nn.Module:
  """Returns ViT-Ti: 5.72 M parameters with 1000 classes and 224-pixel images.

  Arguments and errors are those of `vit`.
  """
  return vit(
    num_classes=num_classes,
    dtype=dtype,
    dim=192,
    depth=12,
    heads=3,
    patch=patch,
    drop_path=drop_path,
    dropout=dropout,
    resize=resize,
  )


def vit_s(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  patch: int = 16,
  drop_path: float = 0.0,
  dropout: float = 0.0,
  resize: int = 0,
) -> nn.Module:
  """Returns ViT-S: 22.05 M parameters with 1000 classes and 224-pixel images.

  Arguments and errors are those of `vit`.
  """
  return vit(
    num_classes=num_classes,
    dtype=dtype,
    dim=384,
    depth=12,
    heads=6,
    patch=patch,
    drop_path=drop_path,
    dropout=dropout,
    resize=resize,
  )


def vit_b(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  patch: int = 16,
  drop_path: float = 0.0,
  dropout: float = 0.0,
  resize: int = 0,
) -> nn.Module:
  """Returns ViT-B: 86.57 M parameters with 1000 classes and 224-pixel images.

  Competitive Distillation's table 1 gives 85.7 M, which is what this network has with
  100 (or 10) classes and 32-pixel images.

  Arguments and errors are those of `vit`.
  """
  return vit(
    num_classes=num_classes,
    dtype=dtype,
    dim=768,
    depth=12,
    heads=12,
    patch=patch,
    drop_path=drop_path,
    dropout=dropout,
    resize=resize,
  )
