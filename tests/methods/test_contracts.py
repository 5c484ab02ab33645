"""What every method has to hold: found by discovery, so that a new one is tested too.

The fast part runs each contract once for each method, on a cohort of two architectures
in which two members are stacked.
"""

import functools
import sys

import jax
from jax import export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.core.method import Context, variables_of
from jaxdistill.core.types import Group
from jaxdistill.engine.cohort import forward
from jaxdistill.run import checkpoint
from tests.helpers import toy

STEPS = 3 * toy.STEPS_PER_EPOCH

METHODS = [
  pytest.param(name, marks=pytest.mark.xdist_group(name))
  for name in registry.list_available("methods")
]

# Compiling for eight devices, or once more for another mapping, is dear: one method
# without and one with modules stand for all, of which the rest are tested thoroughly.
REPRESENTATIVES = ("competitive", "byot")


def sampled(*marks):
  """All methods, with marks for the representatives; the others are for `thorough`."""
  found = []
  for known in registry.list_available("methods"):
    chosen = marks if known in REPRESENTATIVES else (pytest.mark.thorough,)
    found.append(pytest.param(known, marks=[pytest.mark.xdist_group(known), *chosen]))
  return found


cohorts = pytest.mark.parametrize(
  "kind", ["mixed", pytest.param("same", marks=pytest.mark.slow)]
)


def resolve(name):
  """The method with its defaults, but for what its module says in `BRIEF`."""
  module = sys.modules[registry.find("methods", name).__module__]
  known = registry.keywords("methods", name)
  chosen = {}
  for key, value in getattr(module, "BRIEF", {}).items():
    if key in known:
      chosen[key] = value
  return registry.resolve("methods", name, **chosen)


@pytest.fixture(scope="module", params=METHODS)
def name(request):
  """A method: its contracts run one after the other, then its compiled steps go.

  What XLA compiles on a CPU holds memory maps, of which a process may have only so
  many.
  """
  yield request.param
  _trial.cache_clear()
  _trained.cache_clear()
  jax.clear_caches()


def trial(name, kind="mixed", devices=1, mapping="vmap", member=1):
  return _trial(name, kind, devices, mapping, member)


def trained(name, kind="mixed", devices=1, mapping="vmap", member=1):
  return _trained(name, kind, devices, mapping, member)


@functools.cache
def _trial(name, kind, devices, mapping, member):
  # A perturbed member in every other step, so that the contracts hold with perturbation
  # too.
  ops = [registry.resolve("perturb", "mixup"), registry.resolve("perturb", "noise")]
  specs = toy.cohort(kind, mapping)
  made = toy.Trial(
    resolve(name), specs, devices=devices, member=member, ops=ops, every=2
  )
  if devices > 1 or mapping != "vmap":
    # The same, and it need not be compiled again.
    made.initial = made.place(trial(name, kind).initial)
  return made


@functools.cache
def _trained(name, kind, devices, mapping, member):
  return trial(name, kind, devices, mapping, member).run(STEPS)


def assert_close(first, second, rtol, atol):
  def check(a, b):
    np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)

  jax.tree.map(check, toy.arrays(first), toy.arrays(second))


@cohorts
def test_state_type_is_a_fixed_point(name, kind):
  before = trial(name, kind).initial
  after, _ = trained(name, kind)
  assert jax.tree.structure(before) == jax.tree.structure(after)
  pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
  for old, new in pairs:
    assert jax.typeof(old) == jax.typeof(new)
    assert old.sharding.is_equivalent_to(new.sharding, old.ndim)
  assert int(after.step) == STEPS


@cohorts
def test_traced_once(name, kind):
  trained(name, kind)
  assert trial(name, kind).traces == 1


@cohorts
def test_finite_and_falling(name, kind):
  state, history = trained(name, kind)
  for leaf in jax.tree.leaves(toy.arrays(state.cohort)):
    assert np.isfinite(leaf).all()
  first = np.mean([metrics["ce"] for metrics in history[:4]], axis=0)
  last = np.mean([metrics["ce"] for metrics in history[-4:]], axis=0)
  assert (last < first - 0.1).all()
  assert not np.any([metrics["skipped"] for metrics in history])


def test_member_losses_are_uncoupled(name):
  """The Jacobian of `member` by all logits is block-diagonal, perturbed or not."""
  made = trial(name)
  state, _ = trained(name)
  batch = next(toy.batches(0, 1))
  num_members = sum(spec.size for spec in made.specs)
  views_of = toy.views_of(num_members, [registry.resolve("perturb", "mixup")], 2)

  @jax.jit
  def jacobian(state, batch, step):
    def run(images):
      variables = variables_of(state.cohort)
      key = jax.random.key(1)
      return forward(made.specs, variables, images, key, train=True)[0]

    views, clean = views_of(jax.random.key(3), step, batch)
    outputs = run(views.image)
    clean_outputs = run(jnp.broadcast_to(clean, views.image.shape))
    context = Context(
      step=jnp.int32(4),
      epoch=jnp.int32(1),
      num_epochs=toy.EPOCHS,
      steps_per_epoch=toy.STEPS_PER_EPOCH,
      key=jax.random.key(2),
      forward=lambda variables, images: run(images),
      forward_clean=lambda: clean_outputs,
    )

    def member(logits):
      given = outputs.replace(logits=logits)
      modules = variables_of(state.method.modules)
      memory = state.method.memory
      seen = toy.as_step(modules, memory, given, batch, views, context)
      return made.method.loss(seen).member

    return jnp.abs(jax.jacrev(member)(outputs.logits)).sum((2, 3))

  for step in (0, 1):
    found = np.asarray(jacobian(state, batch, jnp.int32(step)))
    assert (np.diag(found) > 0).all()
    np.testing.assert_array_equal(found * (1 - np.eye(num_members)), 0)


@pytest.mark.parametrize("name", sampled(), indirect=True)
def test_one_device_equals_eight(name):
  one_state, one_history = trained(name)
  eight_state, eight_history = trained(name, devices=8)
  # Rounding differs between the two and grows with every step of training.
  assert_close(one_history[0], eight_history[0], 1e-4, 1e-5)
  assert_close(one_state.cohort, eight_state.cohort, 2e-2, 2e-3)


@pytest.mark.parametrize("name", sampled(pytest.mark.slow), indirect=True)
def test_members_may_be_on_devices_of_their_own(name):
  """What a group owns is split over the devices, and nothing else changes."""
  one_state, one_history = trained(name, "pairs")
  spread_state, spread_history = trained(name, "pairs", devices=8, member=2)
  assert_close(one_history[0], spread_history[0], 1e-4, 1e-5)
  assert_close(one_state.cohort, spread_state.cohort, 2e-2, 2e-3)
  owned = [spread_state.cohort["net"]]
  if "net" in spread_state.method.modules:
    owned.append(spread_state.method.modules["net"])
  for group in owned:
    for leaf in jax.tree.leaves((group.params, group.stats, group.opt)):
      assert leaf.addressable_shards[0].data.shape == (1, *leaf.shape[1:])


@pytest.mark.parametrize("name", sampled(pytest.mark.slow), indirect=True)
@pytest.mark.parametrize("mapping", ["unroll", "plain"])
def test_member_mappings_agree(name, mapping):
  vmapped_state, vmapped_history = trained(name)
  other_state, other_history = trained(name, mapping=mapping)
  assert_close(vmapped_history[0], other_history[0], 1e-4, 1e-5)
  assert_close(vmapped_state.cohort, other_state.cohort, 2e-2, 2e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
def test_the_step_lowers_for_every_platform(name):
  # The way of a CPU with a single device has a mark of its own.
  made = trial(name)
  (batch,) = toy.batches(0, 1)

  def program(*platforms):
    exported = export.export(jax.jit(made.step), platforms=platforms)
    return exported(made.initial, batch).mlir_module()

  # A call that may not be inlined is part of the way that only a CPU takes.
  assert "inlineable" in program("cpu")
  assert "inlineable" in program("cpu", "cuda", "tpu")
  assert "inlineable" not in program("cuda", "tpu")


@cohorts
def test_save_restore_continue_is_continue(name, kind, tmp_path):
  made = trial(name, kind)
  after, _ = trained(name, kind)
  middle, _ = made.run(5)
  checkpoint.save(tmp_path / "c", middle)
  restored, _ = checkpoint.load(tmp_path / "c", middle)
  continued, _ = made.run(STEPS, state=made.place(restored), start=5)
  jax.tree.map(np.testing.assert_array_equal, toy.arrays(after), toy.arrays(continued))


@pytest.mark.slow
def test_relabelling_equal_members_permutes_the_result(name):
  """With unperturbed views, which member is called 0 does not matter.

  Unless the method gives members roles.
  """
  method = resolve(name)
  if not method.symmetric:
    pytest.skip("members have roles")
  made = toy.Trial(method, toy.cohort("same"))
  order = jnp.array([2, 0, 1])

  def permute(tree):
    return jax.tree.map(lambda x: x[order], tree)

  def permute_own(x):
    # What a method keeps for each member has the member axis in front; nothing else in
    # it is three long.
    return x[order] if x.ndim and len(x) == 3 else x

  start = made.initial
  cohort = {}
  for group, members in start.cohort.items():
    cohort[group] = Group(
      params=permute(members.params),
      stats=permute(members.stats),
      opt=permute(members.opt),
      held=permute(members.held),
    )
  relabelled = start.replace(
    cohort=cohort, method=jax.tree.map(permute_own, start.method)
  )
  plain, plain_history = made.run(3)
  permuted, history = made.run(3, state=made.place(relabelled))
  assert_close(
    permute(plain.cohort["net"].params), permuted.cohort["net"].params, 1e-4, 1e-5
  )
  expected = plain_history[-1]["loss"][np.array(order)]
  np.testing.assert_allclose(expected, history[-1]["loss"], rtol=1e-4)
