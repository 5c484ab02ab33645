"""CeiT: a vision transformer with convolutions before its tokens and between them.

Reference:
  K. Yuan, S. Guo, Z. Liu, A. Zhou, F. Yu, W. Wu: Incorporating Convolution Designs into
    Visual Transformers.
  ICCV 2021, and its released code.

Modules are named as in the released code. Where it differs from the text we follow the
code: the stem has 64 channels, not 32, which gives the published sizes; and the
feed-forward network hands on the class token as it gets it, normalised, so that the
shortcut around it adds the normalised class token to the class token.
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
from jaxdistill.nn.conv import batch_norm, convolution
from jaxdistill.nn.heads import max_pool
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


class LeFF(nn.Module):
  """Locally-enhanced feed-forward network: 1x1, depthwise 3x3 and 1x1 convolutions of the patch tokens as a map.

  The class token, the first one, passes unchanged.

  Attributes:
    grid: (rows, columns) of the patch tokens.
    dtype: of the arithmetic.
  """

  grid: tuple[int, int]
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens: jax.Array, train: bool) -> jax.Array:
    def unit(x, index, features, kernel, groups=1):
      x = convolution(
        features,
        kernel,
        groups=groups,
        bias=True,
        dtype=self.dtype,
        name=f"conv{index}",
      )(x)
      return batch_norm(train, self.dtype, name=f"bn{index}")(x)

    batch, _, dim = tokens.shape
    x = tokens[:, 1:].reshape(batch, *self.grid, dim)
    x = nn.gelu(unit(x, 1, 4 * dim, 1), approximate=False)
    x = nn.gelu(unit(x, 2, 4 * dim, 3, groups=4 * dim), approximate=False)
    x = unit(x, 3, dim, 1)
    return jnp.concatenate([tokens[:, :1], x.reshape(batch, -1, dim)], axis=1)


class Block(nn.Module):
  """Attention and a locally-enhanced feed-forward network, each on normalised tokens and with a shortcut.

  Attributes:
    grid: (rows, columns) of the patch tokens.
    heads: of the attention.
    drop_path: rate of stochastic depth.
    dtype: of the arithmetic.
  """

  grid: tuple[int, int]
  heads: int
  drop_path: float = 0.0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    y = layer_norm(self.dtype, name="norm1")(x)
    y = Attention(self.heads, dtype=self.dtype, name="attn")(y, train)
    x = x + DropPath(self.drop_path)(y, train)
    y = layer_norm(self.dtype, name="norm2")(x)
    y = LeFF(self.grid, self.dtype, name="leff")(y, train)
    return x + DropPath(self.drop_path)(y, train)


class ClassAttention(nn.Module):
  """Layer-wise class-token attention: the last block's class token attends to those of all blocks.

  Attributes:
    heads: of the attention.
    dtype: of the arithmetic.
  """

  heads: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, tokens: jax.Array, train: bool) -> jax.Array:
    """Turns class tokens [B, blocks, D] into one, [B, D]."""
    y = layer_norm(self.dtype, name="norm1")(tokens)
    x = tokens[:, -1:] + Attention(
      self.heads, last=True, dtype=self.dtype, name="attn"
    )(y, train)
    y = layer_norm(self.dtype, name="norm2")(x)
    return (x + Mlp(dtype=self.dtype, name="feedforward")(y, train))[:, 0]


class CeiT(nn.Module):
  """A CeiT, which classifies what the layer-wise class-token attention gives.

  The features are maps of the patch tokens: "stem" with their positions added, "stage1"
  to "stage4" after each quarter of the blocks (after each block where there are fewer
  than four). The stem before the patches has a total stride of 4, so that 32-pixel
  images have no more than 2x2 patches of 4: `resize` enlarges them.

  Attributes:
    num_classes: C.
    dim: channels of a token.
    depth: number of blocks.
    heads: of the attention.
    patch: side of a patch in positions of the stem's map.
    stem_width: channels of the stem.
    drop_path: rate of stochastic depth in the last block; it rises linearly from 0 in
      the first.
    resize: side in pixels to which images are resized; 0 leaves them.
    dtype: of the arithmetic.
  """

  num_classes: int
  dim: int
  depth: int
  heads: int
  patch: int = 4
  stem_width: int = 64
  drop_path: float = 0.0
  resize: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    image = resize_images(image, self.resize)
    x = convolution(self.stem_width, 7, 2, dtype=self.dtype, name="i2t.backbone.conv")(
      image
    )
    x = max_pool(
      batch_norm(train, self.dtype, name="i2t.backbone.bn")(x), 3, 2, padding=1
    )
    grid = patches(x, self.dim, self.patch, self.dtype, name="i2t.proj")
    x = embed_tokens(self.param, grid)
    outputs, classes = {"stem": x[:, 1:].reshape(grid.shape)}, []
    for block, rate in enumerate(np.linspace(0, self.drop_path, self.depth)):
      x = Block(
        grid.shape[1:3], self.heads, float(rate), self.dtype, name=f"blocks.{block}"
      )(x, train)
      classes.append(x[:, 0])
      if stage := stage_ended(block, self.depth):
        outputs[stage] = x[:, 1:].reshape(grid.shape)
    positions = self.param(
      "pos_layer_embed", nn.initializers.zeros, (1, self.depth, self.dim)
    )
    x = jnp.stack(classes, axis=1) + positions.astype(self.dtype)
    x = ClassAttention(self.heads, self.dtype, name="lca")(x, train)
    pooled = layer_norm(name="norm")(x.astype(jnp.float32))
    return ModelOutput(
      token_dense(self.num_classes, name="head")(pooled), {**outputs, "pooled": pooled}
    )


def ceit(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  dim: int = 192,
  depth: int = 12,
  heads: int = 3,
  patch: int = 4,
  stem_width: int = 64,
  drop_path: float = 0.0,
  resize: int = 0,
) -> nn.Module:
  """Builds a CeiT of any size; parameters as `CeiT` has them.

  Raises:
    ConfigError: for sizes less than 1, a dim that the heads do not divide, or a rate
      outside [0, 1); once it sees an image, for one of whose map after the stem the
      sides are not multiples of the patch.
  """
  require_positive(
    dim=dim, depth=depth, heads=heads, patch=patch, stem_width=stem_width
  )
  require(dim % heads == 0, f"dim must be a multiple of the {heads} heads, got {dim}")
  require_not_negative(resize=resize)
  require_rate(drop_path=drop_path)
  return CeiT(
    num_classes, dim, depth, heads, patch, stem_width, drop_path, resize, dtype
  )


def ceit_t(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  patch: int = 4,
  drop_path: float = 0.0,
  resize: int = 0,
) -> nn.Module:
  """Builds CeiT-T: 6.36 M parameters with 1000 classes and 224-pixel images.

  Raises:
    ConfigError: as `ceit`.
  """
  return ceit(
    num_classes=num_classes,
    dtype=dtype,
    dim=192,
    heads=3,
    patch=patch,
    drop_path=drop_path,
    resize=resize,
  )


def ceit_s(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  patch: int = 4,
  drop_path: float = 0.0,
  resize: int = 0,
) -> nn.Module:
  """Builds CeiT-S: 24.20 M parameters with 1000 classes and 224-pixel images.

  Raises:
    ConfigError: as `ceit`.
  """
  return ceit(
    num_classes=num_classes,
    dtype=dtype,
    dim=384,
    heads=6,
    patch=patch,
    drop_path=drop_path,
    resize=resize,
  )


def ceit_b(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  patch: int = 4,
  drop_path: float = 0.0,
  resize: int = 0,
) -> nn.Module:
  """Builds CeiT-B of the released code: 94.41 M parameters with 1000 classes and 224-pixel images.

  Competitive Distillation's Table 1 gives 88.6 M. No number of classes, stem or size of
  images brings this network there: with 10 classes and 32-pixel images it has 93.50 M.
  Without the layer-wise class-token attention it would have 87.32 M with 1000 classes.

  Raises:
    ConfigError: as `ceit`.
  """
  return ceit(
    num_classes=num_classes,
    dtype=dtype,
    dim=768,
    heads=12,
    patch=patch,
    drop_path=drop_path,
    resize=resize,
  )
