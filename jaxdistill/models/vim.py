"""Vision Mamba: patch tokens mixed by state-space models that read them both ways.

Modules are named, and initialised, as in the authors' code; its variant with the class
token in the middle and the mean of both directions.

References:
  L. Zhu, B. Liao, Q. Zhang, X. Wang, W. Liu, X. Wang: Vision Mamba: Efficient Visual
    Representation Learning with Bidirectional State Space Model. ICML 2024, figure 2,
    algorithm 1.
  A. Gu, T. Dao: Mamba: Linear-Time Sequence Modeling with Selective State Spaces. 2023,
    algorithm 2.
"""

import functools
import math
from typing import Any, NamedTuple

from flax import linen as nn
import jax
from jax.experimental.xla_metadata import set_xla_metadata
import jax.numpy as jnp
import numpy as np

from jaxdistill.core.types import ModelOutput
from jaxdistill.errors import require, require_positive, require_rate
from jaxdistill.nn.conv import member_conv
from jaxdistill.nn.tokens import DropPath, resize_images, stage_ended

IMAGE_SIZE = 224
# Channels inside a mixer as a multiple of those of a token.
EXPANSION = 2
# Tokens that the causal convolution sees.
WINDOW = 4

# PyTorch's uniform distribution of linear layers and convolutions: up to 1 /
# sqrt(inputs).
_torch_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# The published one is cut off at -2 and 2, a hundred standard deviations away.
_token_normal = nn.initializers.normal(0.02)


def _uniform(limit: float) -> nn.initializers.Initializer:
  """Returns the initialiser that draws uniformly between -limit and limit."""

  def init(key, shape, dtype=jnp.float32):
    return jax.random.uniform(key, shape, dtype, -limit, limit)

  return init


def _step_bias(key, shape, dtype=jnp.float32):
  """Draws biases whose softplus, the step size, is log-uniform from 1e-3 to 0.1."""
  lowest = math.log(1e-3)
  highest = math.log(0.1)
  step = jnp.exp(jax.random.uniform(key, shape, dtype, lowest, highest))
  step = jnp.maximum(step, 1e-4)
  # The inverse of softplus.
  return step + jnp.log(-jnp.expm1(-step))


def _counted_log(key, shape):
  """Returns log(1), log(2), ... for every channel [D, state]."""
  del key
  channels, state = shape
  row = jnp.log(jnp.arange(1.0, state + 1))
  return jnp.tile(row[None], (channels, 1))


def _recur(decay, added, reverse=False):
  """Computes h_t = decay_t h_(t-1) + added_t in logarithmically many steps.

  Args:
    decay: [B, L, D].
    added: [B, L, D].
    reverse: whether to begin at the end of axis 1.

  Returns:
    [B, L, D] every h_t.
  """

  def follow(first, then):
    first_decay, first_added = first
    then_decay, then_added = then
    return first_decay * then_decay, then_decay * first_added + then_added

  _, states = jax.lax.associative_scan(follow, (decay, added), axis=1, reverse=reverse)
  return states


@jax.custom_vjp
def _states(decay, added):
  """Computes `_recur(decay, added)`, with a gradient that costs no more."""
  return _recur(decay, added)


def _states_forward(decay, added):
  states = _recur(decay, added)
  return states, (decay, states)


def _states_backward(saved, cotangent):
  # The gradient follows a recurrence of the same kind from the end; differentiating the
  # scan itself costs more.
  decay, states = saved
  next_decay = jnp.pad(decay[:, 1:], ((0, 0), (0, 1), (0, 0)))
  added_grad = _recur(next_decay, cotangent, reverse=True)
  previous_states = jnp.pad(states[:, :-1], ((0, 0), (1, 0), (0, 0)))
  return added_grad * previous_states, added_grad


_states.defvjp(_states_forward, _states_backward)


def _by_entry(x, delta, A, B, C):
  """Scans all tokens in parallel, for one entry of the state after the other.

  All entries at once would take 16 times the memory.
  """

  @jax.checkpoint
  def add(total, entry):
    rate, into, out = entry
    states = _states(jnp.exp(delta * rate[None, None]), delta * x * into[..., None])
    return total + states * out[..., None], None

  start = jnp.zeros_like(x)
  entries = (A.T, jnp.moveaxis(B, 2, 0), jnp.moveaxis(C, 2, 0))
  total, _ = jax.lax.scan(add, start, entries)
  return total


def _by_token(x, delta, A, B, C):
  """Goes through the tokens one by one with all entries of the state.

  Of all ways it does the least work.
  """

  @jax.checkpoint
  def follow(state, token):
    x, delta, into, out = token
    # [B, state, D]: channels last fill the vectors, the few entries of the state would
    # not.
    decay = jnp.exp(delta[:, None] * A.T[None])
    state = decay * state + (delta * x)[:, None] * into[..., None]
    return state, jnp.sum(state * out[..., None], axis=1)

  tokens = [jnp.moveaxis(array, 1, 0) for array in (x, delta, B, C)]
  start = jnp.zeros((x.shape[0], *A.T.shape))
  _, outputs = jax.lax.scan(follow, start, tokens)
  return jnp.moveaxis(outputs, 0, 1)


# The backward pass computes the states again: stored, those of all layers would fill
# the memory.
@functools.partial(jax.jit, static_argnums=0)
@functools.partial(jax.checkpoint, static_argnums=0)
def _scan(function, x, delta, A, B, C, D):
  """Adds the weighted input to what `function` reads from the states."""
  return function(x, delta, A, B, C) + D[None, None] * x


def _scan_on_cpu(*arrays: jax.Array) -> jax.Array:
  """Scans token by token, in a call of its own."""
  # The states are computed again as soon as their inputs are there, all layers at once,
  # where XLA's scheduler for CPUs is free to; it does not look into a call.
  with set_xla_metadata(inlineable="false"):
    return _scan(_by_token, *arrays)


def _scan_elsewhere(*arrays: jax.Array) -> jax.Array:
  """Scans all tokens in parallel."""
  return _scan(_by_entry, *arrays)


# The gradient chooses the platform for itself: through the choice, it would keep what
# the way that was not taken needs.
@jax.custom_vjp
def _scan_anywhere(*arrays: jax.Array) -> jax.Array:
  """Scans the way of the platform that the program is lowered for."""
  return jax.lax.platform_dependent(*arrays, cpu=_scan_on_cpu, default=_scan_elsewhere)


def _scan_forward(*arrays):
  return _scan_anywhere(*arrays), arrays


def _scan_backward(arrays, cotangent):
  return jax.lax.platform_dependent(
    arrays, cotangent, cpu=_pull_back_on_cpu, default=_pull_back_elsewhere
  )


def _pull_back_on_cpu(arrays, cotangent):
  _, pull_back = jax.vjp(_scan_on_cpu, *arrays)
  return pull_back(cotangent)


def _pull_back_elsewhere(arrays, cotangent):
  _, pull_back = jax.vjp(_scan_elsewhere, *arrays)
  return pull_back(cotangent)


_scan_anywhere.defvjp(_scan_forward, _scan_backward)


def selective_scan(
  x: jax.Array, delta: jax.Array, A: jax.Array, B: jax.Array, C: jax.Array, D: jax.Array
) -> jax.Array:
  """Reads y_t = C_t h_t + D x_t from h_t = exp(delta_t A) h_(t-1) + delta_t B_t x_t.

  Computed in float32. Every channel has a state of its own, which is zero before the
  first token. Accelerators scan all tokens in parallel, a CPU goes through them one by
  one.

  Args:
    x: [B, L, D] sequence.
    delta: [B, L, D] step sizes.
    A: [D, state] rates, negative.
    B: [B, L, state] what of the input enters the state.
    C: [B, L, state] how the state is read.
    D: [D] weight of the input that goes past the state.

  Returns:
    f32[B, L, D].
  """
  arrays = [array.astype(jnp.float32) for array in (x, delta, A, B, C, D)]
  return _scan_anywhere(*arrays)


class CausalConv(nn.Module):
  """A depthwise convolution over tokens: each sees itself and those just before it.

  Attributes:
    dtype: of the result.
  """

  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Turns tokens [B, L, D] into tokens of the same shape."""
    channels = x.shape[-1]
    kernel = self.param("kernel", _torch_uniform, (WINDOW, 1, channels))
    bias = self.param("bias", _uniform(WINDOW**-0.5), (channels,))
    padded = jnp.pad(x, ((0, 0), (WINDOW - 1, 0), (0, 0))).astype(jnp.float32)
    # Shifted products: XLA is slow at grouped convolutions on a CPU, and at batches of
    # them over members anywhere.
    total = sum(
      padded[:, i : i + x.shape[1]] * kernel[i : i + 1] for i in range(WINDOW)
    )
    return (total + bias[None, None]).astype(self.dtype)


class ScanInputs(NamedTuple):
  """Arguments of `selective_scan`, which documents them."""

  x: jax.Array
  delta: jax.Array
  A: jax.Array
  B: jax.Array
  C: jax.Array
  D: jax.Array


class Mixer(nn.Module):
  """The bidirectional Mamba block: one selective scan from either end.

  Both read the same input, and the same gate is applied to their mean.

  Attributes:
    state: entries of the state of a channel.
    depth: layers of the network; its square root divides the initial output projection.
    dtype: computation dtype outside of the scan.
  """

  state: int
  depth: int
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """Turns tokens [B, L, D] into tokens of the same shape."""
    dim = x.shape[-1]
    inner = EXPANSION * dim
    # Step sizes are projected by way of few channels.
    rank = -(-dim // 16)

    def linear(features, name, init=_torch_uniform):
      return nn.Dense(
        features, use_bias=False, dtype=self.dtype, kernel_init=init, name=name
      )

    def direction(x, suffix, step_bias):
      """Returns what the scan of one direction reads."""
      x = nn.silu(CausalConv(self.dtype, name=f"conv1d{suffix}")(x))
      projected = linear(rank + 2 * self.state, f"x_proj{suffix}")(x)
      step, B, C = jnp.split(projected, (rank, rank + self.state), axis=-1)
      # In float32, which resolves the sum with the bias, and so the small steps.
      to_delta = nn.Dense(
        inner,
        kernel_init=_uniform(rank**-0.5),
        bias_init=step_bias,
        name=f"dt_proj{suffix}",
      )
      step = to_delta(step)
      log_rates = self.param(f"A{suffix}_log", _counted_log, (inner, self.state))
      A = -jnp.exp(log_rates)
      delta = nn.softplus(step)
      D = self.param(f"D{suffix}", nn.initializers.ones, (inner,))
      return ScanInputs(x=x, delta=delta, A=A, B=B, C=C, D=D)

    x, gate = jnp.split(linear(2 * inner, "in_proj")(x), 2, axis=-1)
    forwards = direction(x, "", _step_bias)
    # In the authors' code the backward direction starts with steps of about
    # softplus(0).
    backwards = direction(jnp.flip(x, 1), "_b", nn.initializers.zeros)
    # One scan for both directions compiles in half the time of two.
    both = jax.tree.map(lambda *arrays: jnp.stack(arrays), forwards, backwards)
    from_start, from_end = jax.vmap(selective_scan)(*both)
    mean = (from_start + jnp.flip(from_end, 1)) / 2
    shrunk = nn.initializers.variance_scaling(1 / (3 * self.depth), "fan_in", "uniform")
    project = linear(dim, "out_proj", shrunk)
    return project(mean.astype(self.dtype) * nn.silu(gate))


class Layer(nn.Module):
  """Adds to tokens in float32 what the mixer makes of them.

  Attributes:
    state: see `Mixer`.
    depth: see `Mixer`.
    drop_path: rate of stochastic depth.
    dtype: computation dtype of the mixer.
  """

  state: int
  depth: int
  drop_path: float
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, train: bool) -> jax.Array:
    """Turns tokens f32[B, L, D] into tokens of the same shape."""
    y = nn.RMSNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(x)
    y = Mixer(self.state, self.depth, self.dtype, name="mixer")(y)
    return x + DropPath(self.drop_path)(y, train).astype(jnp.float32)


class Vim(nn.Module):
  """Vision Mamba.

  The features are the patch tokens as maps; stages are quarters of the layers.

  Attributes:
    num_classes: C.
    dim: D, channels of a token.
    depth: number of layers.
    patch: side of a patch in pixels.
    state: entries of the state of a channel.
    drop_path: rate of stochastic depth in the last layer; it rises linearly from 0 in
      the first.
    resize: side in pixels to which images are resized; 0 leaves them.
    dtype: computation dtype.
  """

  num_classes: int
  dim: int = 192
  depth: int = 24
  patch: int = 16
  state: int = 16
  drop_path: float = 0.0
  resize: int = 0
  dtype: Any = jnp.float32

  @staticmethod
  def class_position(count: int) -> int:
    """Returns where the class token stands among the patch tokens: in the middle."""
    return count // 2

  @nn.compact
  def __call__(self, image: jax.Array, train: bool) -> ModelOutput:
    """Classifies images [B, H, W, 3]."""
    image = resize_images(image, self.resize)
    batch, height, width, _ = image.shape
    require(
      height % self.patch == width % self.patch == 0,
      f"patch must divide the sides of the image, got {self.patch} for "
      f"{height}x{width} pixels",
    )
    # Not `convolution`, which has no choice of initialisation; the rule for members is
    # the same.
    project = nn.Conv(
      self.dim,
      (self.patch, self.patch),
      (self.patch, self.patch),
      padding=((0, 0), (0, 0)),
      dtype=self.dtype,
      conv_general_dilated=member_conv,
      name="patch_embed.proj",
    )
    x = project(image)
    grid = x.shape
    count = grid[1] * grid[2]

    middle = self.class_position(count)
    x = x.reshape(batch, count, self.dim).astype(jnp.float32)
    class_token = self.param("cls_token", _token_normal, (1, 1, self.dim))
    first_half = x[:, :middle]
    class_tokens = jnp.tile(class_token, (batch, 1, 1))
    second_half = x[:, middle:]
    x = jnp.concatenate([first_half, class_tokens, second_half], axis=1)
    x = x + self.param("pos_embed", _token_normal, (1, *x.shape[1:]))

    def patch_map(tokens):
      """Returns all but the class token as a map."""
      rest = [tokens[:, :middle], tokens[:, middle + 1 :]]
      return jnp.concatenate(rest, axis=1).reshape(grid).astype(self.dtype)

    features = {"stem": patch_map(x)}
    drop_paths = np.linspace(0, self.drop_path, self.depth)
    for index, drop_path in enumerate(drop_paths):
      layer = Layer(
        state=self.state,
        depth=self.depth,
        drop_path=float(drop_path),
        dtype=self.dtype,
        name=f"layers.{index}",
      )
      x = layer(x, train)
      stage = stage_ended(index, self.depth)
      if stage:
        features[stage] = patch_map(x)
    pooled = nn.RMSNorm(epsilon=1e-5, name="norm_f")(x[:, middle])
    features["pooled"] = pooled
    logits = nn.Dense(self.num_classes, kernel_init=_token_normal, name="head")(pooled)
    return ModelOutput(logits, features)


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
  """Returns a Vision Mamba of any size.

  Its number of positions follows from the images that initialise it.

  Args:
    num_classes: C.
    dtype: computation dtype.
    dim: channels of a token.
    depth: number of layers.
    patch: side of a patch in pixels.
    state: entries of the state of a channel.
    drop_path: rate of stochastic depth in the last layer; it rises linearly from 0 in
      the first.
    resize: side in pixels to which images are resized; 0 leaves them.

  Raises:
    ConfigError: for a dim, depth, patch or state less than 1, a drop_path outside
      [0, 1), or a resize that is negative or no multiple of the patch; when called, for
      images whose sides are not multiples of the patch.
  """
  require_positive(dim=dim, depth=depth, patch=patch, state=state)
  require_rate(drop_path=drop_path)
  require(
    resize >= 0 and resize % patch == 0,
    f"resize must be 0 or a positive multiple of the patch of {patch} pixels, got "
    f"{resize}",
  )
  return Vim(
    num_classes=num_classes,
    dim=dim,
    depth=depth,
    patch=patch,
    state=state,
    drop_path=drop_path,
    resize=resize,
    dtype=dtype,
  )


def vim_ti(
  *,
  num_classes: int,
  dtype: Any = jnp.float32,
  patch: int = 16,
  drop_path: float = 0.0,
  resize: int = 0,
) -> nn.Module:
  """Returns Vim-Ti: 7.15 M parameters with 1000 classes and 224-pixel images.

  The paper gives 7 M. Arguments and errors are those of `vim`.
  """
  return vim(
    num_classes=num_classes,
    dtype=dtype,
    dim=192,
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
  """Returns Vim-S: 25.80 M parameters with 1000 classes and 224-pixel images.

  The paper gives 26 M. Arguments and errors are those of `vim`.
  """
  return vim(
    num_classes=num_classes,
    dtype=dtype,
    dim=384,
    patch=patch,
    drop_path=drop_path,
    resize=resize,
  )
