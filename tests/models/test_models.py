"""The networks: shapes, sizes against the papers, parity with PyTorch, the stacked convolution."""

import functools

from flax import linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError
from jaxdistill.models import layers, resnet_cifar

DIMENSIONS = ("NHWC", "HWIO", "NHWC")


def nhwc(x):
  return jnp.asarray(np.moveaxis(x, 1, -1))


def hwio(kernel):
  return jnp.asarray(np.transpose(kernel, (2, 3, 1, 0)))


def linen_conv(function, x, kernel, stride, groups):
  """Runs `nn.Conv` with the kernel, so that `function` gets its arguments as a network passes them."""
  pad = kernel.shape[0] // 2
  module = nn.Conv(kernel.shape[-1], kernel.shape[:2], (stride, stride), padding=((pad, pad),) * 2,
                   use_bias=False, feature_group_count=groups, dtype=x.dtype, conv_general_dilated=function)
  return module.apply({"params": {"kernel": kernel}}, x)


def shapes(name, image=32, **kwargs):
  """Output and variables of a network as shapes and types, without computing them."""
  model = registry.resolve("models", name, **kwargs)
  return jax.eval_shape(lambda: model.init_with_output(
      jax.random.key(0), jnp.zeros((2, image, image, 3)), train=True))


def size(name, num_classes, **kwargs):
  return sum(x.size for x in jax.tree.leaves(shapes(name, num_classes=num_classes, **kwargs)[1]["params"]))


RESNET = {"stem": (32, 16), "stage1": (32, 16), "stage2": (16, 32), "stage3": (8, 64), "pooled": 64}
MAPS = {
    "resnet_cifar.resnet8": RESNET,
    "resnet_cifar.resnet20": RESNET,
    "resnet_cifar.resnet32": RESNET,
    "resnet_cifar.resnet44": RESNET,
    "resnet_cifar.resnet56": RESNET,
    "resnet_cifar.resnet110": RESNET,
    "wide_resnet.wrn": {"stem": (32, 16), "stage1": (32, 32), "stage2": (16, 64), "stage3": (8, 128),
                        "pooled": 128},
    "small.convnet": {"stem": (32, 16), "stage1": (16, 32), "stage2": (8, 64), "pooled": 64},
}


def test_every_network_is_listed_here():
  assert set(MAPS) <= set(registry.list_available("models"))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", MAPS)
def test_shapes_and_types(name, dtype):
  output, variables = shapes(name, num_classes=7, dtype=dtype)
  assert output.logits.shape == (2, 7) and output.logits.dtype == jnp.float32
  expected = {
      key: (2, value) if key == "pooled" else (2, value[0], *value) for key, value in MAPS[name].items()}
  assert {key: x.shape for key, x in output.features.items()} == expected
  assert {key: x.dtype for key, x in output.features.items()} == {
      key: jnp.float32 if key == "pooled" else dtype for key in expected}
  assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
  assert set(variables) == {"params", "batch_stats"}


@pytest.mark.parametrize("name", ["small.convnet", "resnet_cifar.resnet8"])
def test_runs_on_small_images(name):
  output, _ = shapes(name, image=8, num_classes=10)
  assert output.logits.shape == (2, 10) and output.features["stem"].shape == (2, 8, 8, 16)


@pytest.mark.parametrize("name, num_classes, kwargs, millions", [
    ("resnet_cifar.resnet20", 10, {}, 0.27),  # He et al. 2016, table 6
    ("resnet_cifar.resnet32", 10, {}, 0.46),
    ("resnet_cifar.resnet44", 10, {}, 0.66),
    ("resnet_cifar.resnet56", 10, {}, 0.85),
    ("resnet_cifar.resnet110", 10, {}, 1.7),
    ("resnet_cifar.resnet32", 100, {}, 0.47),  # Competitive Distillation, table 1
    ("resnet_cifar.resnet44", 100, {}, 0.66),
    ("resnet_cifar.resnet56", 100, {}, 0.86),
    ("mobilenet.v2", 1000, {}, 3.5),
    ("mobilenet.v2", 1000, {"width": 0.35}, 1.68),  # ours: 1.67 if channels were rounded by more than a tenth
    ("wide_resnet.wrn", 10, {"depth": 40, "widen": 2}, 2.2),  # Zagoruyko and Komodakis 2016, table 3
    ("wide_resnet.wrn", 10, {"depth": 16, "widen": 8}, 11.0),
    ("wide_resnet.wrn", 10, {"depth": 28, "widen": 10}, 36.5),
    ("wide_resnet.wrn", 10, {"depth": 28, "widen": 12}, 52.5),
    ("wide_resnet.wrn", 100, {}, 0.7),
    ("wide_resnet.wrn", 10, {"depth": 44, "widen": 8}, 41.9),  # ours: seven blocks in each stage
])
def test_sizes_match_the_papers(name, num_classes, kwargs, millions):
  digits = len(str(millions).split(".")[1])
  # Table 6 of the ResNet paper cuts instead of rounding, hence one unit of its last digit.
  assert abs(size(name, num_classes, **kwargs) / 1e6 - millions) < 10**-digits


@pytest.mark.parametrize("name, kwargs", [
    ("wide_resnet.wrn", {"depth": 17}), ("wide_resnet.wrn", {"depth": 4}), ("wide_resnet.wrn", {"widen": 0}),
    ("mobilenet.v2", {"width": 0.0}),
])
def test_impossible_sizes_are_refused(name, kwargs):
  with pytest.raises(ConfigError):
    registry.resolve("models", name, num_classes=10, **kwargs)


@pytest.mark.parametrize("kernel, expected, stride, groups", [
    ("conv_s2_w", "conv_s2", 2, 1), ("conv1x1_s2_w", "conv1x1_s2", 2, 1), ("dw_w", "dw", 1, 4)])
def test_convolutions_agree_with_pytorch(golden, kernel, expected, stride, groups):
  values = golden("16_torch_primitives")
  kernel = hwio(values[kernel])
  module = layers.conv(kernel.shape[-1], kernel.shape[0], stride, groups=groups)
  found = module.apply({"params": {"kernel": kernel}}, nhwc(values["x"]))
  np.testing.assert_allclose(found, nhwc(values[expected]), atol=1e-5)


def test_shortcut_agrees_with_pytorch(golden):
  values = golden("16_torch_primitives")
  found = resnet_cifar._shortcut(nhwc(values["x"]), 2, 8)
  np.testing.assert_array_equal(found, nhwc(values["optionA_shortcut_4to8"]))


def test_batch_norm_agrees_with_pytorch_but_for_the_biased_running_variance(golden):
  values = golden("16_torch_primitives")
  x, count = nhwc(values["x"]), values["x"].size // 4
  variables = layers.batch_norm(False).init(jax.random.key(0), x)
  found, updated = layers.batch_norm(True).apply(variables, x, mutable=["batch_stats"])
  stats = updated["batch_stats"]
  np.testing.assert_allclose(found, nhwc(values["bn_train_out"]), atol=1e-5)
  np.testing.assert_allclose(stats["mean"], values["bn_mean"], atol=1e-6)
  # PyTorch averages the batch variance over n - 1 values, Flax over n: 0.9 + 0.1 v (n - 1) / n.
  biased = 0.9 + (values["bn_var"] - 0.9) * (count - 1) / count
  assert np.abs(biased - values["bn_var"]).max() > 1e-4
  np.testing.assert_allclose(stats["var"], biased, atol=1e-6)
  as_pytorch = {"params": variables["params"],
                "batch_stats": {"mean": values["bn_mean"], "var": values["bn_var"]}}
  found = layers.batch_norm(False).apply(as_pytorch, x)
  np.testing.assert_allclose(found, nhwc(values["bn_eval_out"]), atol=1e-5)


# kernel, stride, groups, input channels, output channels: dense, 1x1, depthwise, in two groups.
CONVOLUTIONS = [(3, 1, 1, 4, 6), (3, 2, 1, 4, 6), (1, 1, 1, 4, 6), (1, 2, 1, 4, 6), (3, 1, 4, 4, 4),
                (3, 2, 4, 4, 4), (3, 1, 2, 4, 6)]


def arrays(rng, kernel, groups, inputs, outputs, members, side=7):
  def draw(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)
  return (draw(members, 3, side, side, inputs), draw(members, kernel, kernel, inputs // groups, outputs))


def check(found, expected, tolerance):
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


def as_on(monkeypatch, backend):
  monkeypatch.setattr(jax, "default_backend", lambda: backend)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
@pytest.mark.parametrize("geometry", [*CONVOLUTIONS, (5, 2, 4, 4, 4)])
def test_conv_and_its_gradients_are_those_of_lax(monkeypatch, rng, backend, geometry):
  as_on(monkeypatch, backend)
  kernel, stride, groups, inputs, outputs = geometry
  x, w = (a[0] for a in arrays(rng, kernel, groups, inputs, outputs, 1))

  side = -(-x.shape[1] // stride)
  cotangent = jnp.asarray(rng.normal(size=(3, side, side, outputs)), jnp.float32)

  @functools.partial(jax.jit, static_argnums=0)
  def run(function, x, w):
    value, pull = jax.vjp(lambda x, w: linen_conv(function, x, w, stride, groups), x, w)
    return value, pull(cotangent)

  check(run(layers.member_conv, x, w), run(lax.conv_general_dilated, x, w), 1e-5)


@pytest.mark.parametrize("shared, dtype, tolerance", [
    (None, jnp.float32, 1e-5), ("x", jnp.float32, 1e-5), ("w", jnp.float32, 1e-5),
    (None, jnp.bfloat16, 2e-2)])
@pytest.mark.parametrize("geometry", CONVOLUTIONS)
def test_stacked_conv_is_the_conv_of_each_member(rng, geometry, shared, dtype, tolerance):
  kernel, stride, groups, inputs, outputs = geometry
  x, w = arrays(rng, kernel, groups, inputs, outputs, members=2)
  x, w = (x[0] if shared == "x" else x).astype(dtype), (w[0] if shared == "w" else w).astype(dtype)
  axes = (None if shared == "x" else 0, None if shared == "w" else 0)
  conv = functools.partial(linen_conv, layers.member_conv, stride=stride, groups=groups)
  plain = functools.partial(linen_conv, lax.conv_general_dilated, stride=stride, groups=groups)

  def alone(x, w):
    return jnp.stack([plain(x if shared == "x" else x[k], w if shared == "w" else w[k]) for k in range(2)])

  expected = alone(x, w)
  cotangent = jnp.asarray(rng.normal(size=expected.shape), dtype)

  @functools.partial(jax.jit, static_argnums=0)
  def run(function, x, w):
    value, pull = jax.vjp(function, x, w)
    return value, pull(cotangent)

  found = run(jax.vmap(conv, in_axes=axes), x, w)
  assert [a.dtype for a in jax.tree.leaves(found)] == [dtype] * 3
  check(found, run(alone, x, w), tolerance)


def test_gradient_inside_vmap_is_the_gradient_outside(rng):
  x, w = arrays(rng, 3, 1, 4, 6, members=2)
  loss = lambda x, w: jnp.sum(linen_conv(layers.member_conv, x, w, 1, 1) ** 2)
  inside = jax.vmap(jax.grad(loss, argnums=(0, 1)))(x, w)
  outside = jax.grad(lambda x, w: jnp.sum(jax.vmap(loss)(x, w)), argnums=(0, 1))(x, w)
  check(inside, outside, 1e-6)


def operations(function, *args):
  return jax.jit(function).lower(*args).as_text()


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_members_are_not_run_as_one_grouped_convolution(monkeypatch, rng, backend):
  as_on(monkeypatch, backend)
  x, w = arrays(rng, 3, 1, 4, 6, members=2)
  loss = lambda function, w: jnp.sum(jax.vmap(lambda x, w: linen_conv(function, x, w, 1, 1))(x, w) ** 2)
  grouped = ("feature_group_count = 2", "batch_group_count = 2")
  plain = operations(jax.grad(functools.partial(loss, lax.conv_general_dilated)), w)
  assert any(text in plain for text in grouped)
  found = operations(jax.grad(functools.partial(loss, layers.member_conv)), w)
  assert not any(text in found for text in grouped)
  # A call that may not be inlined is what keeps the gradient's operands out of XLA's fusions on a CPU.
  assert ("inlineable" in found) == (backend == "cpu")


@pytest.mark.parametrize("kernel, groups, outputs", [(3, 1, 6), (1, 1, 6), (3, 4, 4)])
def test_conv_takes_padding_by_name_and_dilation(rng, kernel, groups, outputs):
  x, w = (a[0] for a in arrays(rng, kernel, groups, 4, outputs, 1))
  padded, linen = {"padding": ((2, 1), (0, 1))}, lax.conv_dimension_numbers(x.shape, w.shape, DIMENSIONS)
  dilated = [{**padded, "rhs_dilation": (2, 2)}, {"padding": ((0, 0), (0, 0)), "lhs_dilation": (2, 2)}]
  for kwargs in ({"padding": "SAME"}, padded, *dilated):
    args = dict(window_strides=(1, 1), dimension_numbers=linen, feature_group_count=groups, **kwargs)
    check(layers.member_conv(x, w, **args), lax.conv_general_dilated(x, w, **args), 1e-5)


@pytest.mark.parametrize("name, kwargs", [
    ("resnet_cifar.resnet8", {"width": 4}), ("wide_resnet.wrn", {"depth": 10, "widen": 1}),
    ("small.convnet", {"width": 4})])
def test_stacked_members_are_the_members_with_their_own_statistics(rng, name, kwargs):
  model = registry.resolve("models", name, num_classes=5, **kwargs)
  image = jnp.asarray(rng.normal(size=(4, 8, 8, 3)), jnp.float32)
  _, structure = shapes(name, image=8, num_classes=5, **kwargs)
  # Drawn with NumPy: XLA takes longer to compile the initialisation than all the rest.
  params, stats = structure["params"], structure["batch_stats"]
  variables = {"params": jax.tree.map(lambda x: jnp.float32(rng.normal(size=(2, *x.shape))), params),
               "batch_stats": jax.tree.map(lambda x: jnp.float32(rng.uniform(1, 2, (2, *x.shape))), stats)}
  train = jax.jit(lambda variables: model.apply(variables, image, train=True, mutable=["batch_stats"]))
  stacked = jax.jit(jax.vmap(train))(variables)
  before, after = variables["batch_stats"], stacked[1]["batch_stats"]
  assert all(jax.tree.leaves(jax.tree.map(lambda a, b: np.abs(a - b).max() > 0, before, after)))
  for k in range(2):
    alone = train(jax.tree.map(lambda x: x[k], variables))
    for a, b in zip(jax.tree.leaves(stacked), jax.tree.leaves(alone), strict=True):
      np.testing.assert_allclose(a[k], b, atol=1e-5 * (1 + np.abs(b).max()))


def test_members_start_different_and_evaluate_with_running_statistics(rng):
  model = registry.resolve("models", "small.convnet", num_classes=5, width=4)
  image = jnp.asarray(rng.normal(size=(4, 8, 8, 3)), jnp.float32)
  keys = jax.random.split(jax.random.key(0), 2)
  variables = jax.vmap(lambda key: model.init(key, image, train=False))(keys)

  @functools.partial(jax.jit, static_argnums=1)
  def logits(image, train):
    apply = functools.partial(model.apply, train=train, mutable=["batch_stats"])
    return jax.vmap(lambda member: apply(member, image)[0].logits)(variables)

  first, all_four = logits(image[:1], False), logits(image, False)
  np.testing.assert_allclose(first, all_four[:, :1], atol=1e-5)
  assert np.abs(all_four[0] - all_four[1]).max() > 1e-2
  assert np.abs(logits(image[:1], True) - logits(image, True)[:, :1]).max() > 1e-2
