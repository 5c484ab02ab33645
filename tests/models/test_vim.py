"""Vision Mamba: the selective scan against a loop, sizes, shapes, dropped paths."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError
from jaxdistill.models import vim
from tests.helpers import networks

PIXELS = 16
SMALL = {"num_classes": 5, "dim": 12, "depth": 2, "patch": 4, "state": 3}


def small(**kwargs):
  return vim.vim(**(SMALL | kwargs))


def scanned(rng, length, channels=6, state=3, batch=2):
  """Returns arguments of a selective scan."""

  def normal(*shape):
    return np.float32(rng.normal(size=shape))

  return vim.ScanInputs(
    x=normal(batch, length, channels),
    delta=np.log1p(np.exp(normal(batch, length, channels))),
    A=-np.exp(normal(channels, state)),
    B=normal(batch, length, state),
    C=normal(batch, length, state),
    D=normal(channels),
  )


def by_loop(x, delta, A, B, C, D):
  """The recurrence, one token after the other."""

  def step(h, token):
    x, delta, B, C = token
    decay = jnp.exp(delta[..., None] * A[None])
    h = decay * h + (delta * x)[..., None] * B[:, None]
    return h, (h * C[:, None]).sum(-1) + D[None] * x

  tokens_first = [jnp.swapaxes(array, 0, 1) for array in (x, delta, B, C)]
  start = jnp.zeros((x.shape[0], *A.shape))
  _, outputs = jax.lax.scan(step, start, tokens_first)
  return jnp.swapaxes(outputs, 0, 1)


@pytest.mark.usefixtures("platform")
def test_the_scan_is_the_recurrence(rng):
  inputs = scanned(rng, 11)
  x, delta, A, B, C, D = inputs
  expected = np.zeros_like(x)
  h = np.zeros((2, 6, 3))
  for t in range(11):
    decay = np.exp(delta[:, t, :, None] * A)
    h = decay * h + delta[:, t, :, None] * x[:, t, :, None] * B[:, t, None]
    expected[:, t] = (h * C[:, t, None]).sum(-1) + D * x[:, t]
  found = jax.jit(vim.selective_scan)(*inputs)
  np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.usefixtures("platform")
def test_gradients_of_the_scan_are_those_of_the_recurrence(rng):
  inputs = scanned(rng, 11)
  weights = jnp.float32(rng.normal(size=(2, 11, 6)))

  def gradients(scan):
    def loss(inputs):
      return jnp.sum(weights * scan(*inputs))

    return jax.jit(jax.grad(loss))(inputs)

  pairs = zip(gradients(vim.selective_scan), gradients(by_loop), strict=True)
  for found, expected in pairs:
    limit = 1e-4 * (1 + np.abs(expected).max())
    np.testing.assert_allclose(found, expected, atol=limit)


@pytest.mark.usefixtures("platform")
def test_long_sequences_stay_finite(rng):
  inputs = scanned(rng, 1024, channels=2, batch=1)
  # The decay of all tokens together is far below the smallest float.
  inputs = inputs._replace(delta=30 * inputs.delta)

  @jax.jit
  @jax.value_and_grad
  def run(inputs):
    return jnp.sum(vim.selective_scan(*inputs) ** 2)

  for leaf in jax.tree.leaves(run(inputs)):
    assert np.isfinite(leaf).all()


def test_memory_of_the_states_does_not_grow_with_the_layers(rng):
  inputs = scanned(rng, 8)

  def temporary_bytes(layers):
    def loss(x):
      for _ in range(layers):
        x = vim.selective_scan(*inputs._replace(x=x))
      return jnp.sum(x**2)

    # The scheduler of a single device, which the other tests are without.
    options = {"xla_cpu_enable_concurrency_optimized_scheduler": True}
    compiled = jax.jit(jax.grad(loss)).lower(inputs.x).compile(options)
    return compiled.memory_analysis().temp_size_in_bytes

  states_of_a_layer = 4 * inputs.x.size * 3
  assert temporary_bytes(6) < temporary_bytes(1) + 5 * states_of_a_layer / 2


def test_a_reversed_sequence_swaps_the_directions(rng):
  mixer = vim.Mixer(state=3, depth=1)
  x = jnp.float32(rng.normal(size=(2, 7, 12)))
  structure = jax.eval_shape(lambda: mixer.init(jax.random.key(0), x))["params"]

  def draw(leaf):
    return jnp.float32(0.5 * rng.normal(size=leaf.shape))

  params = jax.tree.map(draw, structure)
  backward_names = {
    "A_log": "A_b_log",
    "conv1d": "conv1d_b",
    "x_proj": "x_proj_b",
    "dt_proj": "dt_proj_b",
    "D": "D_b",
  }
  swapped = dict(params)
  for forward, backward in backward_names.items():
    swapped[forward] = params[backward]
    swapped[backward] = params[forward]

  @jax.jit
  def run(params, x):
    return mixer.apply({"params": params}, x)

  expected = run(params, x)
  found = jnp.flip(run(swapped, jnp.flip(x, 1)), 1)
  np.testing.assert_allclose(expected, found, atol=1e-4)
  assert np.abs(expected - run(swapped, x)).max() > 1e-2


def test_the_convolution_does_not_look_ahead(rng):
  conv = vim.CausalConv()
  x = jnp.float32(rng.normal(size=(1, 9, 2)))
  variables = conv.init(jax.random.key(0), x)
  before = conv.apply(variables, x)
  after = conv.apply(variables, x.at[:, 3].add(1))
  has_changed = np.abs(before - after).max(axis=(0, 2)) > 1e-6
  assert has_changed.tolist() == [False] * 3 + [True] * 4 + [False] * 2


@pytest.mark.parametrize(
  "name, count, papers_millions", [("vim_ti", 7_148_008, 7), ("vim_s", 25_796_584, 26)]
)
def test_sizes(name, count, papers_millions):
  model = registry.resolve("models", f"vim.{name}", num_classes=1000)
  found = networks.size(model, 224)
  assert found == count
  assert round(found / 1e6) == papers_millions


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("depth, resize, side, stages", [(5, 0, 4, 4), (2, 24, 6, 2)])
def test_shapes_and_types(dtype, depth, resize, side, stages):
  model = small(num_classes=7, depth=depth, resize=resize, dtype=dtype)
  count = stages + 1
  maps = networks.named_maps([side] * count, [12] * count)
  networks.check_shapes(model, PIXELS, maps, 12, dtype)
  _, variables = networks.shapes(model, PIXELS)
  assert variables["params"]["pos_embed"].shape == (1, side**2 + 1, 12)


@pytest.mark.parametrize(
  "kwargs",
  [
    {"dim": 0},
    {"depth": 0},
    {"patch": 0},
    {"state": 0},
    {"drop_path": 1.0},
    {"drop_path": -0.1},
    {"resize": 9},
    {"resize": -4},
  ],
)
def test_impossible_keywords_are_refused(kwargs):
  with pytest.raises(ConfigError, match=next(iter(kwargs))):
    small(**kwargs)


def test_images_that_the_patch_does_not_divide_are_refused():
  with pytest.raises(ConfigError, match="patch.* 4 for 18x18"):
    networks.shapes(small(), 18)


def test_initial_step_sizes_decays_and_projections():
  model = small(dim=64, depth=4, state=5)

  @jax.jit
  def init():
    return model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)), train=False)

  mixer = init()["params"]["layers.1"]["mixer"]
  steps = np.log1p(np.exp(mixer["dt_proj"]["bias"]))
  assert 0.99e-3 < steps.min() < 3e-3
  assert 0.03 < steps.max() < 0.101
  assert not np.any(mixer["dt_proj_b"]["bias"])
  limits = {
    "in_proj": 64**-0.5,
    "x_proj": 128**-0.5,
    "dt_proj": 0.5,
    "conv1d_b": 0.5,
    "out_proj": 128**-0.5 / 2,
  }
  for name, limit in limits.items():
    assert 0.9 * limit < np.abs(mixer[name]["kernel"]).max() <= limit
  rates = np.tile(np.arange(1, 6), (128, 1))
  np.testing.assert_allclose(np.exp(mixer["A_b_log"]), rates, rtol=1e-5)
  assert np.all(mixer["D"] == 1)


@pytest.mark.slow
def test_paths_are_dropped_in_training_only(rng):
  model = small(drop_path=0.5)
  _, structure = networks.shapes(model, PIXELS)
  variables = networks.draw(rng, structure)
  image = networks.images(rng, PIXELS, batch=6)

  @functools.partial(jax.jit, static_argnums=1)
  def run(key, train):
    output = model.apply(variables, image, train=train, rngs={"dropout": key})
    return output.features

  first = run(jax.random.key(0), True)
  second = run(jax.random.key(1), True)
  evaluated = run(jax.random.key(0), False)
  evaluated_again = run(jax.random.key(1), False)
  np.testing.assert_array_equal(evaluated["pooled"], evaluated_again["pooled"])

  # The first layer always stays, the second is left out for some images.
  np.testing.assert_allclose(first["stage1"], evaluated["stage1"], atol=1e-5)
  is_same = np.isclose(first["stage2"], first["stage1"], atol=1e-6)
  is_dropped = is_same.all(axis=(1, 2, 3))
  assert 0 < is_dropped.sum() < 6

  def change(features):
    return (features["stage2"] - features["stage1"])[~is_dropped]

  np.testing.assert_allclose(change(first), 2 * change(evaluated), atol=1e-4)
  assert np.abs(first["pooled"] - second["pooled"]).max() > 1e-3


@pytest.mark.slow
def test_stacked_members_are_the_members(rng):
  gradients = networks.check_stacked(rng, small(drop_path=0.3), PIXELS)
  for gradient in jax.tree.leaves(gradients):
    assert np.abs(gradient).max() > 0


def test_bfloat16_stays_close_to_float32(rng):
  image = networks.images(rng, PIXELS, batch=2)
  _, structure = networks.shapes(small(), PIXELS)
  variables = networks.draw(rng, structure)

  def logits(dtype):
    model = small(dtype=dtype)
    return jax.jit(lambda: model.apply(variables, image, train=False).logits)()

  exact = logits(jnp.float32)
  rounded = logits(jnp.bfloat16)
  assert 0 < np.abs(exact - rounded).max() < 0.05 * np.abs(exact).max()
