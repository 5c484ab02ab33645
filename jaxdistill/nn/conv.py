"""Convolution as all networks use it: it can be stacked over members."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import contextvars
import functools
import itertools
import math
from typing import Any, NamedTuple

from flax import linen as nn
import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
import jax.numpy as jnp

from jaxdistill.core.processors import processors
from jaxdistill.nn.norm import batch_norm

# What Linen passes for two spatial dimensions.
NHWC = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))

# A kernel's gradient on a CPU is the sum over parts of the batch: parts of so many
# images, or more of them where there would be too many parts.
IMAGES_AT_ONCE = 16
MOST_PARTS = 8
# Inputs of fewer bytes stay in the caches anyway: parts would only be more calls, which
# cost more where several cores share each.
WORTH_PARTS = 2**21
WORTH_PARTS_SHARED = 2**23

# ((top, bottom), (left, right)).
Borders = Sequence[tuple[int, int]]

_AS_WRITTEN = contextvars.ContextVar("as_written", default=False)


@contextlib.contextmanager
def as_written() -> Iterator[None]:
  """Inside, convolutions are `lax.conv_general_dilated` itself.

  To count their work, or to leave members to XLA.
  """
  token = _AS_WRITTEN.set(True)
  try:
    yield
  finally:
    _AS_WRITTEN.reset(token)


def member_conv(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: str | Borders,
  **geometry: Any,
) -> jax.Array:
  """Convolves like `lax.conv_general_dilated`, under `vmap` one member at a time.

  `vmap` turns members with kernels of their own into one grouped convolution, which XLA
  runs on a slow path. Here each member gets a plain convolution and the results are
  stacked, forward and backward. On a CPU depthwise, grouped and 1x1 convolutions are
  computed by other means, and gradients are written in the one form that XLA runs fast
  anywhere in a program. Which platform it is, is decided when the program is lowered.
  For Linen's `nn.Conv(..., conv_general_dilated=member_conv)`. Has no forward-mode
  derivative.

  Args:
    lhs: [B, H, W, D] input.
    rhs: [k, k, D / groups, F] kernel.
    window_strides: (rows, columns).
    padding: ((top, bottom), (left, right)), or a name that `lax.conv_general_dilated`
      knows.
    **geometry: its further arguments.

  Returns:
    [B, H', W', F].
  """
  if _AS_WRITTEN.get():
    return lax.conv_general_dilated(lhs, rhs, window_strides, padding, **geometry)
  if not isinstance(padding, str):
    padding = tuple((before, after) for before, after in padding)
  call = _make_conv(tuple(window_strides), padding, tuple(geometry.items()))
  return call(lhs, rhs)


# Convolutions of one geometry are one function, which JAX need not trace anew.
@functools.cache
def _make_conv(
  window_strides: tuple[int, ...],
  padding: str | Borders,
  geometry: tuple[tuple[str, Any], ...],
) -> Callable:
  """Returns (lhs, rhs) -> convolution, as `member_conv` describes it."""
  arguments = {
    "window_strides": window_strides,
    "padding": padding,
    **dict(geometry),
  }
  plain = functools.partial(lax.conv_general_dilated, **arguments)
  cpu_conv = functools.partial(_cpu_conv, **arguments)
  cpu_gradients = functools.partial(_cpu_gradients, **arguments)

  def plain_gradients(lhs, rhs, cotangent):
    _, pull_back = jax.vjp(plain, lhs, rhs)
    return pull_back(cotangent)

  @_per_member
  def convolve(lhs, rhs):
    return lax.platform_dependent(lhs, rhs, cpu=cpu_conv, default=plain)

  @_per_member
  def gradients(lhs, rhs, cotangent):
    return lax.platform_dependent(
      lhs, rhs, cotangent, cpu=cpu_gradients, default=plain_gradients
    )

  @jax.custom_vjp
  def call(lhs, rhs):
    return convolve(lhs, rhs)

  def forward(lhs, rhs):
    return convolve(lhs, rhs), (lhs, rhs)

  def backward(saved, cotangent):
    lhs, rhs = saved
    return gradients(lhs, rhs, cotangent)

  call.defvjp(forward, backward)
  return call


def _per_member(function: Callable) -> Callable:
  """Gives `function` a batching rule: call it for each member, stack the results."""
  function = jax.custom_batching.custom_vmap(function)

  @function.def_vmap
  def rule(size, batched, *args):
    outputs = []
    for member in range(size):
      own_args = list(args)
      for i, is_stacked in enumerate(batched):
        if is_stacked:
          own_args[i] = args[i][member]
      outputs.append(function(*own_args))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *outputs)
    return stacked, jax.tree.map(lambda _: True, stacked)

  return function


def _materialised(x: jax.Array) -> jax.Array:
  """Returns `x`, computed once and stored."""
  # XLA does not fuse across a call that it may not inline.
  with set_xla_metadata(inlineable="false"):
    return jax.jit(lax.optimization_barrier)(x)


def _cpu_conv(
  lhs: jax.Array,
  rhs: jax.Array,
  window_strides: Sequence[int],
  padding: str | Borders,
  feature_group_count: int = 1,
  **geometry: Any,
) -> jax.Array:
  """Computes `lax.conv_general_dilated`, by other means where XLA is slow on a CPU."""
  way = _cpu_way(lhs, rhs, padding, feature_group_count, geometry)
  if way == "depthwise" and not isinstance(padding, str):
    return _depthwise(lhs, rhs, window_strides, padding)
  if way == "pointwise":
    return _pointwise(lhs, rhs, window_strides)
  if way == "grouped":
    # As many times more multiplications as there are groups, and still much quicker:
    # grouped ones are on a slow path.
    rhs = _ungrouped(rhs, feature_group_count)
    feature_group_count = 1
  return lax.conv_general_dilated(
    lhs,
    rhs,
    window_strides,
    padding,
    feature_group_count=feature_group_count,
    **geometry,
  )


def _cpu_way(
  lhs: jax.Array,
  rhs: jax.Array,
  padding: str | Borders,
  groups: int,
  geometry: dict[str, Any],
) -> str:
  """Names the way in which a CPU computes a convolution.

  Returns:
    "depthwise", "pointwise", "grouped", "dense", or "general" for what is left to XLA.
  """
  if isinstance(padding, str) or not _is_default(geometry):
    return "general"
  if groups == lhs.shape[-1] == rhs.shape[-1]:
    return "depthwise"
  if groups > 1:
    return "grouped"
  if _reads_single_pixels(rhs, padding):
    return "pointwise"
  return "dense"


def has_one_device() -> bool:
  """Tells whether the run has a single device, of all its processes together."""
  return jax.device_count() == 1


def shares_convolutions() -> bool:
  """Tells whether a CPU is to compute one convolution with several cores.

  With several devices each has a part of them: then it is not, so that the bits do not
  depend on the number of processes.
  """
  return has_one_device() and len(processors()) > 1


def _cpu_gradients(
  lhs: jax.Array,
  rhs: jax.Array,
  cotangent: jax.Array,
  window_strides: Sequence[int],
  padding: str | Borders,
  feature_group_count: int = 1,
  **geometry: Any,
) -> tuple[jax.Array, jax.Array]:
  """Computes the gradients of `_cpu_conv` for its input and its kernel."""
  way = _cpu_way(lhs, rhs, padding, feature_group_count, geometry)
  if way == "general" or isinstance(padding, str):
    convolve = functools.partial(
      lax.conv_general_dilated,
      window_strides=window_strides,
      padding=padding,
      feature_group_count=feature_group_count,
      **geometry,
    )
    _, pull_back = jax.vjp(convolve, _materialised(lhs), rhs)
    return pull_back(_materialised(cotangent))
  if way == "grouped":
    ungroup = functools.partial(_ungrouped, groups=feature_group_count)
    full, pull_back_kernel = jax.vjp(ungroup, rhs)
    lhs_gradient, full_gradient = _cpu_gradients(
      lhs, full, cotangent, window_strides, padding, **geometry
    )
    return lhs_gradient, *pull_back_kernel(full_gradient)
  window = _Window(rhs.shape[:2], tuple(window_strides), padding)
  if way == "dense":
    return _dense_gradients(lhs, rhs, cotangent, window)
  # XLA would recompute the layers before the gradient inside of it.
  lhs, cotangent = _materialised(lhs), _materialised(cotangent)
  if way == "depthwise":
    return _depthwise_gradients(lhs, rhs, cotangent, window)
  return _pointwise_gradients(lhs, rhs, cotangent, window.strides)


class _Window(NamedTuple):
  """What a convolution reads.

  Attributes:
    size: rows and columns of the kernel.
    strides: rows and columns between windows.
    padding: ((top, bottom), (left, right)).
  """

  size: tuple[int, ...]
  strides: tuple[int, ...]
  padding: Borders


def _dense_gradients(
  lhs: jax.Array, rhs: jax.Array, cotangent: jax.Array, window: _Window
) -> tuple[jax.Array, jax.Array]:
  """Returns the gradients of a convolution in which all channels are mixed.

  Args:
    lhs: [B, H, W, D] input.
    rhs: [k, k, D, F] kernel.
    cotangent: [B, H', W', F].
    window: of the convolution.
  """
  # XLA does not fuse across a call that it may not inline: it would recompute the
  # layers before the gradient inside its transpositions. With several devices, a sum
  # over the batch in such a call is an exchange that each process makes in an order of
  # its own, so that they would wait for each other.
  call = contextlib.nullcontext()
  if has_one_device():
    call = set_xla_metadata(inlineable="false")
  with call:
    kernel_gradient = _kernel_gradient(lhs, cotangent, window)
  return _input_gradient(rhs, cotangent, lhs.shape[1:3], window), kernel_gradient


@functools.partial(jax.jit, static_argnames="window")
def _kernel_gradient(
  lhs: jax.Array, cotangent: jax.Array, window: _Window
) -> jax.Array:
  """Convolves the input with the cotangent: the gradient [k, k, D, F] of the kernel.

  Images and channels change places, so that XLA sees the layout of any other
  convolution of images: it brings others into that form at the top of a program only.

  Args:
    lhs: [B, H, W, D] input.
    cotangent: [B, H', W', F].
    window: of the convolution.
  """
  borders = []
  for axis in range(2):
    before = window.padding[axis][0]
    reach = (cotangent.shape[1 + axis] - 1) * window.strides[axis] + 1
    after = window.size[axis] - 1 + reach - lhs.shape[1 + axis] - before
    borders.append((before, after))

  def over(images, cotangents):
    return lax.conv_general_dilated(
      images.transpose(3, 1, 2, 0),
      cotangents.transpose(1, 2, 0, 3),
      window_strides=(1, 1),
      padding=borders,
      rhs_dilation=window.strides,
      dimension_numbers=NHWC,
      preferred_element_type=jnp.promote_types(cotangents.dtype, jnp.float32),
    )

  worth_parts = WORTH_PARTS
  if shares_convolutions():
    worth_parts = WORTH_PARTS_SHARED
  parts = 1
  if lhs.shape[0] % IMAGES_AT_ONCE == 0 and lhs.nbytes >= worth_parts:
    parts = min(lhs.shape[0] // IMAGES_AT_ONCE, MOST_PARTS)
  # A part takes every so manieth image: with images spread over devices, each device
  # then has its portion of every part.
  by_part = (-1, parts)
  images = lhs.reshape(*by_part, *lhs.shape[1:])
  cotangents = cotangent.reshape(*by_part, *cotangent.shape[1:])
  sums = [over(images[:, part], cotangents[:, part]) for part in range(parts)]
  gradient = sum(sums[1:], start=sums[0])
  return gradient.transpose(1, 2, 0, 3).astype(cotangent.dtype)


def _input_gradient(
  rhs: jax.Array, cotangent: jax.Array, side: Sequence[int], window: _Window
) -> jax.Array:
  """Convolves the cotangent with the turned kernel: the gradient of the input.

  Args:
    rhs: [k, k, D, F] kernel.
    cotangent: [B, H', W', F].
    side: (H, W).
    window: of the convolution.
  """
  return lax.conv_general_dilated(
    cotangent,
    rhs[::-1, ::-1].transpose(0, 1, 3, 2),
    window_strides=(1, 1),
    padding=_borders_of_cotangent(cotangent, side, window),
    lhs_dilation=window.strides,
    dimension_numbers=NHWC,
  )


def _borders_of_cotangent(
  cotangent: jax.Array, side: Sequence[int], window: _Window
) -> list[tuple[int, int]]:
  """Returns what a cotangent is padded with so that windows of it give the input's.

  Args:
    cotangent: [B, H', W', F], to be dilated by the strides.
    side: (H, W) of the input.
    window: of the convolution.
  """
  borders = []
  for axis in range(2):
    before = window.size[axis] - 1 - window.padding[axis][0]
    reach = (cotangent.shape[1 + axis] - 1) * window.strides[axis] + 1
    after = side[axis] + window.size[axis] - 1 - reach - before
    borders.append((before, after))
  return borders


def _is_default(geometry: dict[str, Any]) -> bool:
  """Tells whether images are in NHWC, without dilation or a precision of its own."""
  return all(value in (None, 1, (1, 1), NHWC) for value in geometry.values())


def _reads_single_pixels(rhs: jax.Array, padding: Borders) -> bool:
  """Tells whether a convolution is a 1x1 one without padding."""
  is_padded = any(before or after for before, after in padding)
  return rhs.shape[:2] == (1, 1) and not is_padded


def _depthwise(
  lhs: jax.Array, rhs: jax.Array, strides: Sequence[int], padding: Borders
) -> jax.Array:
  """Convolves every channel with its own kernel."""
  window = _Window(rhs.shape[:2], tuple(strides), padding)
  padded = jnp.pad(lhs, ((0, 0), *padding, (0, 0)))
  return _weigh_views(padded, rhs, window)


def _weigh_views(padded: jax.Array, rhs: jax.Array, window: _Window) -> jax.Array:
  """Returns the sum of all views times their pixels of a kernel, taken in float32.

  Args:
    padded: [B, H, W, D] input with its borders.
    rhs: [k, k, 1, D] kernel.
    window: of the convolution.
  """
  kernel = rhs.astype(jnp.float32).reshape(-1, 1, 1, 1, rhs.shape[-1])
  total = jnp.zeros((), jnp.float32)
  for view, factor in zip(_views(padded, window), kernel, strict=True):
    total = total + view.astype(jnp.float32) * factor
  return total.astype(padded.dtype)


def _views(padded: jax.Array, window: _Window) -> Iterator[jax.Array]:
  """Yields what each pixel of a kernel is multiplied with, row by row.

  Args:
    padded: [..., H, W, D] input with its borders.
    window: of the convolution.
  """
  height = padded.shape[-3] - window.size[0] + 1
  width = padded.shape[-2] - window.size[1] + 1
  down, right = window.strides
  for i, j in itertools.product(*map(range, window.size)):
    yield padded[..., i : i + height : down, j : j + width : right, :]


def _depthwise_gradients(
  lhs: jax.Array, rhs: jax.Array, cotangent: jax.Array, window: _Window
) -> tuple[jax.Array, jax.Array]:
  """Returns the gradients of a depthwise convolution.

  Args:
    lhs: [B, H, W, D] input.
    rhs: [k, k, 1, D] kernel.
    cotangent: [B, H', W', D].
    window: of the convolution.
  """
  lhs_gradient = _depthwise_input_gradient(rhs, cotangent, lhs.shape[1:3], window)
  # Several devices would exchange all images for a loop over them.
  if has_one_device():
    return lhs_gradient, _depthwise_kernel_gradient(lhs, cotangent, window)

  def over_kernel(kernel: jax.Array) -> jax.Array:
    return _depthwise(lhs, kernel, window.strides, window.padding)

  (kernel_gradient,) = jax.linear_transpose(over_kernel, rhs)(cotangent)
  return lhs_gradient, kernel_gradient


def _depthwise_input_gradient(
  rhs: jax.Array, cotangent: jax.Array, side: Sequence[int], window: _Window
) -> jax.Array:
  """Convolves the cotangent with the turned kernel, every channel with its own.

  As JAX derives it, it is a sum of maps that are padded differently, and XLA tests at
  every pixel of each whether it is in the border.

  Args:
    rhs: [k, k, 1, D] kernel.
    cotangent: [B, H', W', D].
    side: (H, W) of the input.
    window: of the convolution.
  """
  borders = [(0, 0, 0)]
  for (before, after), stride in zip(
    _borders_of_cotangent(cotangent, side, window), window.strides, strict=True
  ):
    borders.append((before, after, stride - 1))
  borders.append((0, 0, 0))
  padded = lax.pad(cotangent, jnp.zeros((), cotangent.dtype), borders)
  every_pixel = window._replace(strides=(1, 1))
  return _weigh_views(padded, rhs[::-1, ::-1], every_pixel)


def _depthwise_kernel_gradient(
  lhs: jax.Array, cotangent: jax.Array, window: _Window
) -> jax.Array:
  """Returns the gradient [k, k, 1, D] of a depthwise convolution's kernel.

  It is summed up image by image: XLA computes a sum over images and positions several
  times slower in one go, once for each pixel of the kernel.

  Args:
    lhs: [B, H, W, D] input.
    cotangent: [B, H', W', D].
    window: of the convolution.
  """
  padded = jnp.pad(lhs, ((0, 0), *window.padding, (0, 0)))

  def add(sums, image_and_cotangent):
    image, image_cotangent = image_and_cotangent
    image_cotangent = image_cotangent.astype(jnp.float32)
    added = []
    for total, view in zip(sums, _views(image, window), strict=True):
      added.append(total + view.astype(jnp.float32) * image_cotangent)
    return added, None

  nothing = jnp.zeros(cotangent.shape[1:], jnp.float32)
  pixels = math.prod(window.size)
  sums, _ = lax.scan(add, [nothing] * pixels, (padded, cotangent))
  by_pixel = jnp.stack([jnp.sum(total, axis=(0, 1)) for total in sums])
  shape = (*window.size, 1, lhs.shape[-1])
  return by_pixel.reshape(shape).astype(cotangent.dtype)


def _pointwise(lhs: jax.Array, rhs: jax.Array, strides: Sequence[int]) -> jax.Array:
  """Convolves with a 1x1 kernel: a matrix product at every position that is kept."""
  kept = lhs[:, :: strides[0], :: strides[1]]
  over_channels = (((3,), (0,)), ((), ()))
  return lax.dot_general(kept, rhs[0, 0], over_channels)


def _pointwise_gradients(
  lhs: jax.Array, rhs: jax.Array, cotangent: jax.Array, strides: Sequence[int]
) -> tuple[jax.Array, jax.Array]:
  """Returns the gradients of `_pointwise`.

  Args:
    lhs: [B, H, W, D] input.
    rhs: [1, 1, D, F] kernel.
    cotangent: [B, H', W', F].
    strides: rows and columns between the pixels that are kept.
  """

  def over_input(images: jax.Array) -> jax.Array:
    return _pointwise(images, rhs, strides)

  (lhs_gradient,) = jax.linear_transpose(over_input, lhs)(cotangent)
  return lhs_gradient, _pointwise_kernel_gradient(lhs, cotangent, strides)


def _pointwise_kernel_gradient(
  lhs: jax.Array, cotangent: jax.Array, strides: Sequence[int]
) -> jax.Array:
  """Returns the gradient [1, 1, D, F] of a 1x1 kernel.

  As JAX derives it, F comes before D, and XLA takes many times longer.

  Args:
    lhs: [B, H, W, D] input.
    cotangent: [B, H', W', F].
    strides: rows and columns between the pixels that are kept.
  """
  kept = lhs[:, :: strides[0], :: strides[1]]
  over_pixels = (((0,), (0,)), ((), ()))
  gradient = lax.dot_general(
    kept.reshape(-1, kept.shape[-1]),
    cotangent.reshape(-1, cotangent.shape[-1]),
    over_pixels,
    preferred_element_type=jnp.promote_types(cotangent.dtype, jnp.float32),
  )
  return gradient[None, None].astype(cotangent.dtype)


def _ungrouped(rhs: jax.Array, groups: int) -> jax.Array:
  """Fills the kernel of a grouped convolution up with zeros for the other groups."""
  height, width, inputs, outputs = rhs.shape
  by_group = rhs.reshape(height, width, 1, inputs, groups, outputs // groups)
  own = jnp.eye(groups, dtype=rhs.dtype).reshape(1, 1, groups, 1, groups, 1)
  return (by_group * own).reshape(height, width, groups * inputs, outputs)


def convolution(
  features: int,
  kernel: int,
  stride: int = 1,
  *,
  groups: int = 1,
  dtype: Any = jnp.float32,
  bias: bool = False,
  padding: int | None = None,
  name: str | None = None,
) -> nn.Conv:
  """Returns a convolution that is padded on every side alike, as PyTorch does.

  Args:
    features: channels of the result.
    kernel: side of the kernel.
    stride: step between windows, in rows and in columns.
    groups: number of groups that the channels are split into.
    dtype: computation dtype.
    bias: whether a bias is added.
    padding: positions added on every side; half the kernel if None.
    name: of the module.
  """
  # SAME would pad a strided 3x3 convolution on one side only.
  if padding is None:
    padding = (kernel - 1) // 2
  return nn.Conv(
    features,
    (kernel, kernel),
    (stride, stride),
    padding=((padding, padding), (padding, padding)),
    use_bias=bias,
    feature_group_count=groups,
    dtype=dtype,
    conv_general_dilated=member_conv,
    kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    name=name,
  )


def conv_norm(
  x: jax.Array,
  features: int,
  kernel: int,
  stride: int = 1,
  *,
  train: bool,
  dtype: Any,
  names: tuple[str, str],
  groups: int = 1,
  bias: bool = False,
  padding: int | None = None,
) -> jax.Array:
  """Applies a convolution, then batch normalisation, the unit that networks repeat.

  To be called inside an `nn.compact` method. Both modules are created there, as
  children of the module that calls, so `names` are their parameters' keys.

  Args:
    x: [B, H, W, D] map.
    features: channels F of the result.
    kernel: side of the kernel.
    stride: step between windows, in rows and in columns.
    train: whether to normalise by the batch's own statistics.
    dtype: computation dtype of both layers.
    names: of the convolution and of the normalisation.
    groups: number of groups that the channels are split into.
    bias: whether the convolution adds a bias.
    padding: positions added on every side; half the kernel if None.

  Returns:
    [B, H', W', F] map, before any non-linearity.
  """
  conv_name, norm_name = names
  conv = convolution(
    features,
    kernel,
    stride,
    groups=groups,
    dtype=dtype,
    bias=bias,
    padding=padding,
    name=conv_name,
  )
  return batch_norm(train, dtype, name=norm_name)(conv(x))
