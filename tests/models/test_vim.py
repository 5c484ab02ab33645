"""Vision Mamba: the selective scan against a loop, sizes, shapes, dropped paths, members stacked."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.errors import ConfigError
from jaxdistill.models import vim
from tests.helpers import networks

PIXELS = 16


def small(**kwargs):
  return vim.vim(
    **{"num_classes": 5, "dim": 12, "depth": 2, "patch": 4, "state": 3, **kwargs}
  )


def scanned(rng, length, channels=6, state=3, batch=2):
  """Arguments of a selective scan."""
  normal = lambda *shape: np.float32(rng.normal(size=shape))
  return (
    normal(batch, length, channels),
    np.log1p(np.exp(normal(batch, length, channels))),
    -np.exp(normal(channels, state)),
    normal(batch, length, state),
    normal(batch, length, state),
    normal(channels),
  )


def by_loop(x, delta, A, B, C, D):
  """The recurrence, one token after the other."""

  def step(h, at):
    x, delta, B, C = at
    h = jnp.exp(delta[..., None] * A[None]) * h + (delta * x)[..., None] * B[:, None]
    return h, (h * C[:, None]).sum(-1) + D[None] * x

  tokens_first = [jnp.swapaxes(array, 0, 1) for array in (x, delta, B, C)]
  return jnp.swapaxes(
    jax.lax.scan(step, jnp.zeros((x.shape[0], *A.shape)), tokens_first)[1], 0, 1
  )


@pytest.fixture(params=["cpu", "gpu"])
def backend(monkeypatch, request):
  """Makes networks believe that they run on a backend, whose way of scanning they then take."""
  monkeypatch.setattr(jax, "default_backend", lambda: request.param)


@pytest.mark.usefixtures("backend")
def test_the_scan_is_the_recurrence(rng):
  x, delta, A, B, C, D = scanned(rng, 11)
  expected, h = np.zeros_like(x), np.zeros((2, 6, 3))
  for t in range(11):
    h = (
      np.exp(delta[:, t, :, None] * A) * h
      + delta[:, t, :, None] * x[:, t, :, None] * B[:, t, None]
    )
    expected[:, t] = (h * C[:, t, None]).sum(-1) + D * x[:, t]
  np.testing.assert_allclose(
    jax.jit(vim.selective_scan)(x, delta, A, B, C, D), expected, atol=1e-4
  )


@pytest.mark.usefixtures("backend")
def test_gradients_of_the_scan_are_those_of_the_recurrence(rng):
  arguments, weights = scanned(rng, 11), jnp.float32(rng.normal(size=(2, 11, 6)))
  gradients = lambda scan: jax.jit(
    jax.grad(lambda arguments: jnp.sum(weights * scan(*arguments)))
  )(arguments)
  for a, b in zip(gradients(vim.selective_scan), gradients(by_loop), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-4 * (1 + np.abs(b).max()))


@pytest.mark.usefixtures("backend")
def test_long_sequences_stay_finite(rng):
  x, delta, A, B, C, D = scanned(rng, 1024, channels=2, batch=1)
  arguments = (
    x,
    30 * delta,
    A,
    B,
    C,
    D,
  )  # the decay of all tokens together is far below the smallest float
  run = jax.jit(
    jax.value_and_grad(lambda arguments: jnp.sum(vim.selective_scan(*arguments) ** 2))
  )
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run(arguments)))


def test_memory_of_the_states_does_not_grow_with_the_layers(rng):
  arguments = scanned(rng, 8)

  def temporary(layers):
    def loss(x):
      for _ in range(layers):
        x = vim.selective_scan(x, *arguments[1:])
      return jnp.sum(x**2)

    # The scheduler of a single device, which the other tests are without.
    options = {"xla_cpu_enable_concurrency_optimized_scheduler": True}
    compiled = jax.jit(jax.grad(loss)).lower(arguments[0]).compile(options)
    return compiled.memory_analysis().temp_size_in_bytes

  of_a_layer = 4 * arguments[0].size * 3
  assert temporary(6) < temporary(1) + 5 * of_a_layer / 2


def test_a_reversed_sequence_swaps_the_directions(rng):
  mixer = vim.Mixer(state=3, depth=1)
  x = jnp.float32(rng.normal(size=(2, 7, 12)))
  shapes = jax.eval_shape(lambda: mixer.init(jax.random.key(0), x))["params"]
  params = jax.tree.map(
    lambda leaf: jnp.float32(0.5 * rng.normal(size=leaf.shape)), shapes
  )
  pairs = {
    "A_log": "A_b_log",
    **{name: f"{name}_b" for name in ("conv1d", "x_proj", "dt_proj", "D")},
  }
  pairs |= {backward: forward for forward, backward in pairs.items()}
  swapped = {pairs.get(name, name): leaf for name, leaf in params.items()}
  run = jax.jit(lambda params, x: mixer.apply({"params": params}, x))
  there, back = run(params, x), jnp.flip(run(swapped, jnp.flip(x, 1)), 1)
  np.testing.assert_allclose(there, back, atol=1e-4)
  assert np.abs(there - run(swapped, x)).max() > 1e-2


def test_the_convolution_does_not_look_ahead(rng):
  conv = vim.CausalConv()
  x = jnp.float32(rng.normal(size=(1, 9, 2)))
  variables = conv.init(jax.random.key(0), x)
  changed = (
    np.abs(conv.apply(variables, x) - conv.apply(variables, x.at[:, 3].add(1))).max(
      axis=(0, 2)
    )
    > 1e-6
  )
  assert changed.tolist() == [False] * 3 + [True] * 4 + [False] * 2


@pytest.mark.parametrize(
  "name, count, paper", [("vim_ti", 7_148_008, 7), ("vim_s", 25_796_584, 26)]
)
def test_sizes(name, count, paper):
  model = registry.resolve("models", f"vim.{name}", num_classes=1000)
  found = networks.size(model, 224)
  assert found == count and round(found / 1e6) == paper


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("depth, resize, side, stages", [(5, 0, 4, 4), (2, 24, 6, 2)])
def test_shapes_and_types(dtype, depth, resize, side, stages):
  model = small(num_classes=7, depth=depth, resize=resize, dtype=dtype)
  networks.check_shapes(
    model,
    PIXELS,
    networks.named_maps([side] * (stages + 1), [12] * (stages + 1)),
    12,
    dtype,
  )
  assert networks.shapes(model, PIXELS)[1]["params"]["pos_embed"].shape == (
    1,
    side**2 + 1,
    12,
  )


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
  params = jax.jit(
    lambda: model.init(jax.random.key(0), jnp.zeros((1, 4, 4, 3)), train=False)
  )()["params"]
  mixer = params["layers.1"]["mixer"]
  steps = np.log1p(np.exp(mixer["dt_proj"]["bias"]))
  assert 0.99e-3 < steps.min() < 3e-3 and 0.03 < steps.max() < 0.101
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
  np.testing.assert_allclose(
    np.exp(mixer["A_b_log"]), np.tile(np.arange(1, 6), (128, 1)), rtol=1e-5
  )
  assert np.all(mixer["D"] == 1)


def test_paths_are_dropped_in_training_only(rng):
  model = small(drop_path=0.5)
  variables, x = (
    networks.draw(rng, networks.shapes(model, PIXELS)[1]),
    jnp.float32(rng.normal(size=(6, PIXELS, PIXELS, 3))),
  )
  run = jax.jit(
    lambda key, train: (
      model.apply(variables, x, train=train, rngs={"dropout": key}).features
    ),
    static_argnums=1,
  )
  first, second = (run(jax.random.key(k), True) for k in range(2))
  evaluated = run(jax.random.key(0), False)
  np.testing.assert_array_equal(
    evaluated["pooled"], run(jax.random.key(1), False)["pooled"]
  )
  np.testing.assert_allclose(
    first["stage1"], evaluated["stage1"], atol=1e-5
  )  # the first layer always stays
  dropped = np.isclose(first["stage2"], first["stage1"], atol=1e-6).all(axis=(1, 2, 3))
  assert 0 < dropped.sum() < 6
  change = lambda features: features["stage2"] - features["stage1"]
  np.testing.assert_allclose(
    change(first)[~dropped], 2 * change(evaluated)[~dropped], atol=1e-4
  )
  assert np.abs(first["pooled"] - second["pooled"]).max() > 1e-3


def test_stacked_members_are_the_members(rng):
  gradients = networks.check_stacked(rng, small(drop_path=0.3), PIXELS)
  assert all(np.abs(g).max() > 0 for g in jax.tree.leaves(gradients))


def test_bfloat16_stays_close_to_float32(rng):
  x = jnp.float32(rng.normal(size=(2, PIXELS, PIXELS, 3)))
  variables = networks.draw(rng, networks.shapes(small(), PIXELS)[1])
  run = lambda dtype: jax.jit(
    lambda: small(dtype=dtype).apply(variables, x, train=False).logits
  )()
  exact, rounded = run(jnp.float32), run(jnp.bfloat16)
  assert 0 < np.abs(exact - rounded).max() < 0.05 * np.abs(exact).max()
