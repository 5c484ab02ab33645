"""Vision Mamba: patch tokens mixed by selective state-space models that read them forwards and backwards.

References:
  L. Zhu, B. Liao, Q. Zhang, X. Wang, W. Liu, X. Wang: Vision Mamba: Efficient Visual
    Representation Learning with
  Bidirectional State Space Model. ICML 2024, figure 2, algorithm 1. A. Gu, T. Dao:
  Mamba: Linear-Time Sequence Modeling with Selective State Spaces. 2023, algorithm 2.

Modules are named, and initialised, as in the authors' code; its variant with the class
token in the middle and the mean of both directions.
"""

import contextlib
import functools
import math
from typing import Any

from flax import linen as nn
import jax
from jax.experimental.xla_metadata import set_xla_metadata
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.types import ModelOutput
from jaxdistill.errors import require, require_rate
from jaxdistill.nn.conv import member_conv
from jaxdistill.nn.tokens import DropPath, resize_images, stage_ended

IMAGE_SIZE = 224
EXPANSION = 2
WINDOW = 4

# PyTorch's uniform distribution of linear layers and convolutions: up to 1 /
# sqrt(inputs).
_torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# The published one is cut off at -2 and 2, a hundred standard deviations away.
_token_normal = nn.initializers.normal(0.02)


def _uniform(limit: float):
  return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
    key, shape, dtype, -limit, limit
  )


def _step_bias(key, shape, dtype=jnp.float32):
  """Draws biases whose softplus, the step size, is log-uniform between 1e-3 and 0.1."""
  step = jnp.exp(jax.random.uniform(key, shape, dtype, math.log(1e-3), math.log(0.1)))
  step = jnp.maximum(step, 1e-4)
  return step + jnp.log(-jnp.expm1(-step))


def _counted_log(key, shape):
  """Returns log(1), log(2), ... for every channel [D, state]."""
  return jnp.tile(jnp.log(jnp.arange(1.0, shape[1] + 1))[None], (shape[0], 1))


def _recur(decay, added, reverse=False):
  """Computes h_t = decay_t h_(t-1) + added_t along axis 1, or from its end, in logarithmically many steps."""
  follow = lambda first, then: (first[0] * then[0], then[0] * first[1] + then[1])
  return jax.lax.associative_scan(follow, (decay, added), axis=1, reverse=reverse)[1]


@jax.custom_vjp
def _states(decay, added):
  return _recur(decay, added)


def _states_forward(decay, added):
  states = _recur(decay, added)
  return states, (decay, states)


def _states_backward(saved, cotangent):
  # The gradient follows a recurrence of the same kind from the end; differentiating the
  # scan itself costs more.
  decay, states = saved
  grad = _recur(
    jnp.pad(decay[:, 1:], ((0, 0), (0, 1), (0, 0))), cotangent, reverse=True
  )
  return grad * jnp.pad(states[:, :-1], ((0, 0), (1, 0), (0, 0))), grad


_states.defvjp(_states_forward, _states_backward)


def _by_entry(x, delta, A, B, C):
  """Scans all tokens at once for one entry of the state after the other: all at once would take 16 times the memory."""

  @jax.checkpoint
  def add(total, entry):
    rate, into, out = entry
    states = _states(jnp.exp(delta * rate[None, None]), delta * x * into[..., None])
    return total + states * out[..., None], None

  return jax.lax.scan(
    add, jnp.zeros_like(x), (A.T, jnp.moveaxis(B, 2, 0), jnp.moveaxis(C, 2, 0))
  )[0]


def _by_token(x, delta, A, B, C):
  """Goes through the tokens one by one with all entries of the state, which does the least work."""

  @jax.checkpoint
  def follow(state, token):
    x, delta, into, out = token
    # [B, state, D]: channels last fill the vectors, the few entries of the state would
    # not.
    state = (
      jnp.exp(delta[:, None] * A.T[None]) * state
      + (delta * x)[:, None] * into[..., None]
    )
    return state, jnp.sum(state * out[..., None], axis=1)

  tokens = [jnp.moveaxis(array, 1, 0) for array in (x, delta, B, C)]
  return jnp.moveaxis(
    jax.lax.scan(follow, jnp.zeros((x.shape[0], *A.T.shape)), tokens)[1], 0, 1
  )


# The backward pass computes the states again: stored, those of all layers would fill
# the memory.
@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.checkpoint, static_argnums=0)
def _scan(function, x, delta, A, B, C, D):
  return function(x, delta, A, B, C) + D[None, None] * x


def selective_scan(
  x: jax.Array, delta: jax.Array, A: jax.Array, B: jax.Array, C: jax.Array, D: jax.Array
) -> jax.Array:
  """Runs the recurrence h_t = exp(delta_t A) h_(t-1) + delta_t B_t x_t and reads y_t = C_t h_t + D x_t, in float32.

  Every channel has a state of its own, which is zero before the first token.
  Accelerators scan all tokens in parallel, a CPU goes through them one by one.

  Args:
    x: [B, L, D] sequence.
    delta: [B, L, D] step sizes.
    A: [D, state] rates, negative.
    B: [B, L, state] what of the input enters the state.
    C: [B, L, state] how the state is read.
    D: [D] share of the input that passes by.

  Returns:
    f32[B, L, D].
  """
  # The states are computed again as soon as their inputs are there, all layers at once,
  # where XLA's scheduler for CPUs is free to; it does not look into a call.
  on_cpu = jax.default_backend() == "cpu"
  with set_xla_metadata(inlineable="false") if on_cpu else contextlib.nullcontext():
    return _scan(
      _by_token if on_cpu else _by_entry,
      *(array.astype(jnp.float32) for array in (x, delta, A, B, C, D)),
    )


class CausalConv(nn.Module):
  """A depthwise convolution over tokens [B, L, D] in which each sees itself and those just before it."""

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    kernel = self.param("kernel", _torch_uniform, (WINDOW, 1, x.shape[-1]))
    bias = self.param("bias", _uniform(WINDOW**-0.5), (x.shape[-1],))
    padded = jnp.pad(x, ((0, 0), (WINDOW - 1, 0), (0, 0))).astype(jnp.float32)
    # Shifted products: XLA is slow at grouped convolutions on a CPU, and at batches of
    # them over members anywhere.
    total = sum(
      padded[:, i : i + x.shape[1]] * kernel[i : i + 1] for i in range(WINDOW)
    )
    return (total + bias[None, None]).astype(self.dtype)


class Mixer(nn.Module):
  """The bidirectional Mamba block: the same gated input, read by one selective scan from either end.

  Attributes:
    state: entries of the state of a channel.
    depth: layers of the network; its square root divides the initial output projection.
    dtype: of the arithmetic outside of the scan.
  """

  state: int
  depth: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    dim = x.shape[-1]
    inner, rank = EXPANSION * dim, -(-dim // 16)

    def linear(features, name, init=_torch_uniform):
      return nn.Dense(
        features, use_bias=False, dtype=self.dtype, kernel_init=init, name=name
      )

    def direction(x, suffix, step_bias):
      x = nn.silu(CausalConv(self.dtype, name=f"conv1d{suffix}")(x))
      projected = linear(rank + 2 * self.state, f"x_proj{suffix}")(x)
      step, B, C = jnp.split(projected, (rank, rank + self.state), axis=-1)
      # In float32, which resolves the sum with the bias, and so the small steps.
      step = nn.Dense(
        inner,
        kernel_init=_uniform(rank**-0.5),
        bias_init=step_bias,
        name=f"dt_proj{suffix}",
      )(step)
      A = -jnp.exp(self.param(f"A{suffix}_log", _counted_log, (inner, self.state)))
      return (
        x,
        nn.softplus(step),
        A,
        B,
        C,
        self.param(f"D{suffix}", nn.initializers.ones, (inner,)),
      )

    x, gate = jnp.split(linear(2 * inner, "in_proj")(x), 2, axis=-1)
    # In the authors' code the backward direction starts with steps of about
    # softplus(0).
    both = (
      direction(x, "", _step_bias),
      direction(jnp.flip(x, 1), "_b", nn.initializers.zeros),
    )
    # One scan for both directions compiles in half the time of two.
    forwards, backwards = jax.vmap(selective_scan)(
      *(jnp.stack(pair) for pair in zip(*both))
    )
    mean = (forwards + jnp.flip(backwards, 1)) / 2
    shrunk = nn.initializers.variance_scaling(1 / (3 * self.depth), "fan_in", "uniform")
    return linear(dim, "out_proj", shrunk)(mean.astype(self.dtype) * nn.silu(gate))


class Layer(nn.Module):
  """Adds to tokens in float32 what the mixer makes of them.

  Attributes:
    state, depth: of the mixer.
    drop_path: share of examples for which the mixer is dropped in training.
    dtype: of the arithmetic.
  """

  state: int
  depth: int
  drop_path: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    y = nn.RMSNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(x)
    y = Mixer(self.state, self.depth, self.dtype, name="mixer")(y)
    return x + DropPath(self.drop_path)(y, train).astype(jnp.float32)


class Vim(nn.Module):
  """Vision Mamba.

  The features are the patch tokens as maps; stages are quarters of the layers.

  Attributes:
    num_classes: C.
    dim: D, channels of a token.
    depth: layers.
    patch: side of a patch in pixels.
    state: entries of the state of a channel.
    drop_path: stochastic depth of the last layer; it grows linearly from none in the
      first.
    resize: side in pixels that images are resized to, 0 for none.
    dtype: of the arithmetic.
  """

  num_classes: int
  dim: int = 192
  depth: int = 24
  patch: int = 16
  state: int = 16
  drop_path: float = 0.0
  resize: int = 0
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    image = resize_images(image, self.resize)
    batch, height, width, _ = image.shape
    require(
      height % self.patch == width % self.patch == 0,
      f"patch must divide the sides of the image, got {self.patch} for {height}x{width} pixels",
    )
    # Not `convolution`, which has no choice of initialisation; the rule for members is
    # the same.
    x = nn.Conv(
      self.dim,
      (self.patch,) * 2,
      (self.patch,) * 2,
      padding=((0, 0), (0, 0)),
      dtype=self.dtype,
      conv_general_dilated=member_conv,
      name="patch_embed.proj",
    )(image)
    grid, middle = x.shape, x.shape[1] * x.shape[2] // 2
    x = x.reshape(batch, -1, self.dim).astype(jnp.float32)
    token = self.param("cls_token", _token_normal, (1, 1, self.dim))
    x = jnp.concatenate(
      [x[:, :middle], jnp.tile(token, (batch, 1, 1)), x[:, middle:]], axis=1
    )
    x = x + self.param("pos_embed", _token_normal, (1, *x.shape[1:]))

    def patches(x):
      return (
        jnp.concatenate([x[:, :middle], x[:, middle + 1 :]], axis=1)
        .reshape(grid)
        .astype(self.dtype)
      )

    outputs = {"stem": patches(x)}
    for index, rate in enumerate(np.linspace(0, self.drop_path, self.depth).tolist()):
      x = Layer(self.state, self.depth, rate, self.dtype, name=f"layers.{index}")(
        x, train
      )
      if stage := stage_ended(index, self.depth):
        outputs[stage] = patches(x)
    pooled = nn.RMSNorm(epsilon=1e-5, name="norm_f")(x[:, middle])
    logits = nn.Dense(self.num_classes, kernel_init=_token_normal, name="head")(pooled)
    return ModelOutput(logits, {**outputs, "pooled": pooled})


def vim(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  dim: int = 192,
  depth: int = 24,
  patch: int = 16,
  state: int = 16,
  drop_path: float = 0.0,
  resize: int = 0,
) -> nn.Module:
  """Builds a Vision Mamba of any size; its number of positions follows from the images that initialise it.

  Raises:
    ConfigError: for a dim, depth, patch or state less than 1, a drop_path outside of
      [0, 1), or a resize that is negative or no multiple of the patch.
  """
  for name, value in {
    "dim": dim,
    "depth": depth,
    "patch": patch,
    "state": state,
  }.items():
    require(value >= 1, f"{name} must be at least 1, got {value}")
  require_rate(drop_path=drop_path)
  require(
    resize >= 0 and resize % patch == 0,
    f"resize must be 0 or a positive multiple of the patch of {patch} pixels, got {resize}",
  )
  return Vim(num_classes, dim, depth, patch, state, drop_path, resize, dtype)


def vim_ti(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  patch: int = 16,
  drop_path: float = 0.0,
  resize: int = 0,
) -> nn.Module:
  """Builds Vim-Ti: 7.15 M parameters with 1000 classes and 224 pixels; the paper names 7 M.

  Raises:
    ConfigError: for a patch less than 1, a drop_path outside of [0, 1), or a resize
      that is negative or no multiple of the patch.
  """
  return vim(
    num_classes=num_classes,
    dtype=dtype,
    patch=patch,
    drop_path=drop_path,
    resize=resize,
  )


def vim_s(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  patch: int = 16,
  drop_path: float = 0.0,
  resize: int = 0,
) -> nn.Module:
  """Builds Vim-S: 25.80 M parameters with 1000 classes and 224 pixels; the paper names 26 M.

  Raises:
    ConfigError: for a patch less than 1, a drop_path outside of [0, 1), or a resize
      that is negative or no multiple of the patch.
  """
  return vim(
    num_classes=num_classes,
    dtype=dtype,
    dim=384,
    patch=patch,
    drop_path=drop_path,
    resize=resize,
  )
