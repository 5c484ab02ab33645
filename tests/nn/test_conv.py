"""The convolution that can be stacked over members, and batch normalisation."""

import functools
from typing import NamedTuple

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.nn import batch_norm, convolution, member_conv

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


class Geometry(NamedTuple):
  """What is convolved: sizes of the kernel and of its operands."""

  kernel: int
  stride: int
  groups: int
  inputs: int
  outputs: int


# Dense, 1x1, depthwise, in two groups.
GEOMETRIES = [
  Geometry(kernel=3, stride=1, groups=1, inputs=4, outputs=6),
  Geometry(kernel=3, stride=2, groups=1, inputs=4, outputs=6),
  Geometry(kernel=1, stride=1, groups=1, inputs=4, outputs=6),
  Geometry(kernel=1, stride=2, groups=1, inputs=4, outputs=6),
  Geometry(kernel=3, stride=1, groups=4, inputs=4, outputs=4),
  Geometry(kernel=3, stride=2, groups=4, inputs=4, outputs=4),
  Geometry(kernel=3, stride=1, groups=2, inputs=4, outputs=6),
]
DENSE = GEOMETRIES[0]


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, 1, -1))


def hwio(kernel):
  return jnp.asarray(np.transpose(kernel, (2, 3, 1, 0)))


def linen_conv(function, x, kernel, stride=1, groups=1):
  """Runs `nn.Conv`, so that `function` gets its arguments as from a network."""
  pad = kernel.shape[0] // 2
  module = nn.Conv(
    kernel.shape[-1],
    kernel.shape[:2],
    (stride, stride),
    padding=((pad, pad), (pad, pad)),
    use_bias=False,
    feature_group_count=groups,
    dtype=x.dtype,
    conv_general_dilated=function,
  )
  return module.apply({"params": {"kernel": kernel}}, x)


def arrays(rng, geometry, members, side=7):
  """Returns images and kernels of members."""

  def draw(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  kernel = geometry.kernel
  inputs = geometry.inputs
  images = draw(members, 3, side, side, inputs)
  kernels = draw(members, kernel, kernel, inputs // geometry.groups, geometry.outputs)
  return images, kernels


def check(found, expected, tolerance):
  """Checks trees of arrays to be equal up to a fraction of the largest value."""
  pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
  for a, b in pairs:
    a = np.asarray(a, np.float32)
    b = np.asarray(b, np.float32)
    np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


@pytest.mark.parametrize(
  "kernel, expected, stride, groups",
  [
    ("conv_s2_w", "conv_s2", 2, 1),
    ("conv1x1_s2_w", "conv1x1_s2", 2, 1),
    ("dw_w", "dw", 1, 4),
  ],
)
def test_convolutions_agree_with_pytorch(golden, kernel, expected, stride, groups):
  values = golden("16_torch_primitives")
  kernel = hwio(values[kernel])
  module = convolution(kernel.shape[-1], kernel.shape[0], stride, groups=groups)
  found = module.apply({"params": {"kernel": kernel}}, nhwc(values["x"]))
  np.testing.assert_allclose(found, nhwc(values[expected]), atol=1e-5)


def test_batch_norm_agrees_with_pytorch_but_for_the_biased_running_variance(golden):
  values = golden("16_torch_primitives")
  x = nhwc(values["x"])
  count = values["x"].size // 4
  variables = batch_norm(False).init(jax.random.key(0), x)
  found, updated = batch_norm(True).apply(variables, x, mutable=["batch_stats"])
  stats = updated["batch_stats"]
  np.testing.assert_allclose(found, nhwc(values["bn_train_out"]), atol=1e-5)
  np.testing.assert_allclose(stats["mean"], values["bn_mean"], atol=1e-6)

  # PyTorch averages the batch variance over n - 1 values, Flax over n:
  # 0.9 + 0.1 v (n - 1) / n.
  biased = 0.9 + (values["bn_var"] - 0.9) * (count - 1) / count
  assert np.abs(biased - values["bn_var"]).max() > 1e-4
  np.testing.assert_allclose(stats["var"], biased, atol=1e-6)

  as_pytorch = {
    "params": variables["params"],
    "batch_stats": {"mean": values["bn_mean"], "var": values["bn_var"]},
  }
  found = batch_norm(False).apply(as_pytorch, x)
  np.testing.assert_allclose(found, nhwc(values["bn_eval_out"]), atol=1e-5)


WIDE_DEPTHWISE = Geometry(kernel=5, stride=2, groups=4, inputs=4, outputs=4)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("geometry", [*GEOMETRIES, WIDE_DEPTHWISE], ids=str)
def test_conv_and_its_gradients_are_those_of_lax(rng, geometry):
  stacked_x, stacked_w = arrays(rng, geometry, members=1)
  x = stacked_x[0]
  w = stacked_w[0]
  side = -(-x.shape[1] // geometry.stride)
  shape = (3, side, side, geometry.outputs)
  cotangent = jnp.asarray(rng.normal(size=shape), jnp.float32)

  @functools.partial(jax.jit, static_argnums=0)
  def run(function, x, w):
    def conv(x, w):
      return linen_conv(function, x, w, stride=geometry.stride, groups=geometry.groups)

    value, pull_back = jax.vjp(conv, x, w)
    return value, pull_back(cotangent)

  check(run(member_conv, x, w), run(lax.conv_general_dilated, x, w), 1e-5)


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_gradients_of_one_device_are_those_of_lax(rng, stride):
  # It loops over the images.
  x = jnp.asarray(rng.normal(size=(2, 5, 7, 6, 4)), jnp.float32)
  w = jnp.asarray(rng.normal(size=(2, 3, 3, 1, 4)), jnp.float32)

  @functools.partial(jax.jit, static_argnums=0)
  def run(function, x, w):
    def loss(x, w):
      return jnp.sum(linen_conv(function, x, w, stride=stride, groups=4) ** 2)

    return jax.vmap(jax.grad(loss, argnums=(0, 1)))(x, w)

  assert "while" in run.lower(member_conv, x, w).as_text()
  check(run(member_conv, x, w), run(lax.conv_general_dilated, x, w), 1e-5)


def test_gradients_of_a_large_batch_in_a_loop_are_those_of_lax(rng, monkeypatch):
  # In parts, though the images are small.
  monkeypatch.setattr("jaxdistill.nn.conv.WORTH_PARTS", 0)
  x = jnp.asarray(rng.normal(size=(160, 6, 5, 3)), jnp.float32)
  w = jnp.asarray(rng.normal(size=(3, 3, 3, 4)), jnp.float32)

  @functools.partial(jax.jit, static_argnums=0)
  def run(function, x, w):
    def loss(x, w):
      return jnp.mean(linen_conv(function, x, w, stride=2) ** 2)

    def descend(w, _):
      x_grad, w_grad = jax.grad(loss, argnums=(0, 1))(x, w)
      return w - w_grad, (x_grad, w_grad)

    return jax.lax.scan(descend, w, length=2)

  check(run(member_conv, x, w), run(lax.conv_general_dilated, x, w), 1e-5)


@pytest.mark.parametrize(
  "shared, dtype, tolerance",
  [
    (None, jnp.float32, 1e-5),
    ("x", jnp.float32, 1e-5),
    ("w", jnp.float32, 1e-5),
    (None, jnp.bfloat16, 2e-2),
  ],
)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_stacked_conv_is_the_conv_of_each_member(
  rng, geometry, shared, dtype, tolerance
):
  x, w = arrays(rng, geometry, members=2)
  x_axis = 0
  w_axis = 0
  if shared == "x":
    x = x[0]
    x_axis = None
  if shared == "w":
    w = w[0]
    w_axis = None
  x = x.astype(dtype)
  w = w.astype(dtype)
  sizes = {"stride": geometry.stride, "groups": geometry.groups}
  stacked = jax.vmap(
    functools.partial(linen_conv, member_conv, **sizes), in_axes=(x_axis, w_axis)
  )

  def alone(x, w):
    outputs = []
    for k in range(2):
      member_x = x if shared == "x" else x[k]
      member_w = w if shared == "w" else w[k]
      outputs.append(linen_conv(lax.conv_general_dilated, member_x, member_w, **sizes))
    return jnp.stack(outputs)

  shape = jax.eval_shape(alone, x, w).shape
  cotangent = jnp.asarray(rng.normal(size=shape), dtype)

  @functools.partial(jax.jit, static_argnums=0)
  def run(function, x, w):
    value, pull_back = jax.vjp(function, x, w)
    return value, pull_back(cotangent)

  found = run(stacked, x, w)
  assert [a.dtype for a in jax.tree.leaves(found)] == [dtype] * 3
  check(found, run(alone, x, w), tolerance)


def test_gradient_inside_vmap_is_the_gradient_outside(rng):
  x, w = arrays(rng, DENSE, members=2)

  def loss(x, w):
    return jnp.sum(linen_conv(member_conv, x, w) ** 2)

  def total(x, w):
    return jnp.sum(jax.vmap(loss)(x, w))

  inside = jax.vmap(jax.grad(loss, argnums=(0, 1)))(x, w)
  outside = jax.grad(total, argnums=(0, 1))(x, w)
  check(inside, outside, 1e-6)


@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_members_are_not_run_as_one_grouped_convolution(rng, platform):
  x, w = arrays(rng, DENSE, members=2)

  def gradient_operations(function):
    def loss(w):
      stacked = jax.vmap(functools.partial(linen_conv, function))
      return jnp.sum(stacked(x, w) ** 2)

    traced = jax.jit(jax.grad(loss)).trace(w)
    return traced.lower(lowering_platforms=(platform,)).as_text()

  def is_grouped(operations):
    kinds = ("feature_group_count = 2", "batch_group_count = 2")
    return any(kind in operations for kind in kinds)

  assert is_grouped(gradient_operations(lax.conv_general_dilated))
  found = gradient_operations(member_conv)
  assert not is_grouped(found)
  # A call that may not be inlined is what keeps the gradient's operands out of XLA's
  # fusions on a CPU.
  assert ("inlineable" in found) == (platform == "cpu")


@pytest.mark.parametrize(
  "kwargs",
  [
    {"padding": "SAME"},
    {"padding": ((2, 1), (0, 1))},
    {"padding": ((2, 1), (0, 1)), "rhs_dilation": (2, 2)},
    {"padding": ((0, 0), (0, 0)), "lhs_dilation": (2, 2)},
  ],
  ids=str,
)
@pytest.mark.parametrize("kernel, groups, outputs", [(3, 1, 6), (1, 1, 6), (3, 4, 4)])
def test_conv_takes_padding_by_name_and_dilation(rng, kernel, groups, outputs, kwargs):
  geometry = Geometry(kernel=kernel, stride=1, groups=groups, inputs=4, outputs=outputs)
  stacked_x, stacked_w = arrays(rng, geometry, members=1)
  x = stacked_x[0]
  w = stacked_w[0]
  arguments = {
    "window_strides": (1, 1),
    "dimension_numbers": lax.conv_dimension_numbers(x.shape, w.shape, DIMENSIONS),
    "feature_group_count": groups,
    **kwargs,
  }
  found = member_conv(x, w, **arguments)
  check(found, lax.conv_general_dilated(x, w, **arguments), 1e-5)
