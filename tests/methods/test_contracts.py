"""What every method has to hold, for every cohort: found by discovery, so that a new method is tested unasked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdistill.core import registry
from jaxdistill.core.method import Context
from jaxdistill.core.types import Group
from jaxdistill.engine.cohort import forward, variables_of
from jaxdistill.run import checkpoint
from tests.helpers import toy

STEPS = 3 * toy.STEPS_PER_EPOCH

# Keys with which a method does within three epochs what it does in a long run; all others run with their defaults.
KEYS = {"interval": dict(independent_epochs=1, distillation_epochs=1)}


def resolve(name):
  return registry.resolve("methods", name, **KEYS.get(name, {}))

METHODS = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in registry.list_available("methods")]
cohorts = pytest.mark.parametrize("kind", ["same", "mixed"])


@pytest.fixture(scope="module", params=METHODS)
def name(request):
  """A method: all its contracts run one after the other in one process, and then its compiled steps go.

  What XLA compiles on a CPU holds memory maps, of which a process may have only so many.
  """
  yield request.param
  _trial.cache_clear()
  _trained.cache_clear()
  jax.clear_caches()


def trial(name, kind, devices=1, unroll=False):
  return _trial(name, kind, devices, unroll)


def trained(name, kind, devices=1, unroll=False):
  return _trained(name, kind, devices, unroll)


@functools.cache
def _trial(name, kind, devices, unroll):
  # A perturbed member in every other step, so that the contracts hold with perturbation too.
  ops = [registry.resolve("perturb", "mixup"), registry.resolve("perturb", "noise")]
  made = toy.Trial(resolve(name), toy.cohort(kind, unroll), devices=devices, ops=ops, every=2)
  if devices > 1 or unroll:
    made.initial = made.place(trial(name, kind).initial)  # the same, and it need not be compiled again
  return made


@functools.cache
def _trained(name, kind, devices, unroll):
  return trial(name, kind, devices, unroll).run(STEPS)


def assert_close(first, second, rtol, atol):
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), toy.arrays(first),
               toy.arrays(second))


@cohorts
def test_state_type_is_a_fixed_point(name, kind):
  before, (after, _) = trial(name, kind).initial, trained(name, kind)
  assert jax.tree.structure(before) == jax.tree.structure(after)
  for old, new in zip(jax.tree.leaves(before), jax.tree.leaves(after)):
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
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(toy.arrays(state.cohort)))
  first, last = (np.mean([h["ce"] for h in part], axis=0) for part in (history[:4], history[-4:]))
  assert (last < first - 0.1).all()
  assert not np.any([h["skipped"] for h in history])


def test_member_losses_are_uncoupled(name):
  """The Jacobian of `member` with respect to all logits is block-diagonal, perturbed or not."""
  t = trial(name, "mixed")
  state, batch = trained(name, "mixed")[0], next(toy.batches(0, 1))
  num_members = sum(spec.size for spec in t.specs)
  views_of = toy.views_of(num_members, [registry.resolve("perturb", "mixup")], 2)

  @jax.jit
  def jacobian(state, batch, step):
    views, clean = views_of(jax.random.key(3), step, batch)
    run = lambda images: forward(t.specs, variables_of(state.cohort), images, jax.random.key(1), train=True)[0]
    outputs = run(views.image)
    clean_outputs = run(jnp.broadcast_to(clean, views.image.shape))
    context = Context(jnp.int32(4), jnp.int32(1), toy.EPOCHS, toy.STEPS_PER_EPOCH, jax.random.key(2),
                      lambda variables, images: run(images), lambda: clean_outputs)
    def member(logits):
      return t.method.loss(toy.as_step(state.method, outputs.replace(logits=logits), batch, views, context)).member
    return jnp.abs(jax.jacrev(member)(outputs.logits)).sum((2, 3))

  for step in (0, 1):
    found = np.asarray(jacobian(state, batch, jnp.int32(step)))
    assert (np.diag(found) > 0).all()
    np.testing.assert_array_equal(found * (1 - np.eye(num_members)), 0)


def test_one_device_equals_eight(name):
  """On the mixed cohort, which has stacked members as well; compiling another one would show nothing new."""
  one, eight = trained(name, "mixed"), trained(name, "mixed", devices=8)
  # Rounding differs between the two and grows with every step of training.
  assert_close(one[1][0], eight[1][0], 1e-4, 1e-5)
  assert_close(one[0].cohort, eight[0].cohort, 2e-2, 2e-3)


def test_member_mappings_agree(name):
  vmapped, unrolled = trained(name, "mixed"), trained(name, "mixed", unroll=True)
  assert_close(vmapped[1][0], unrolled[1][0], 1e-4, 1e-5)
  assert_close(vmapped[0].cohort, unrolled[0].cohort, 2e-2, 2e-3)


@cohorts
def test_save_restore_continue_is_continue(name, kind, tmp_path):
  t, (after, _) = trial(name, kind), trained(name, kind)
  middle, _ = t.run(5)
  checkpoint.save(tmp_path / "c", middle)
  restored, _ = checkpoint.load(tmp_path / "c", middle)
  continued, _ = t.run(STEPS, state=t.place(restored), start=5)
  jax.tree.map(np.testing.assert_array_equal, toy.arrays(after), toy.arrays(continued))


def test_relabelling_equal_members_permutes_the_result(name):
  """With unperturbed views, which member is called 0 does not matter, unless the method gives members roles."""
  if not resolve(name).symmetric:
    pytest.skip("members have roles")
  t = toy.Trial(resolve(name), toy.cohort("same"))
  t.initial = trial(name, "same").initial
  order = jnp.array([2, 0, 1])
  permute = lambda group: jax.tree.map(lambda x: x[order], group)
  # What a method keeps for each member has the member axis in front; nothing else in it is three long.
  own = lambda state: jax.tree.map(lambda x: x[order] if x.ndim and len(x) == 3 else x, state)
  start = t.initial.replace(cohort={n: Group(*map(permute, (g.params, g.stats, g.opt)))
                                    for n, g in t.initial.cohort.items()}, method=own(t.initial.method))
  (plain, plain_history), (permuted, history) = t.run(3), t.run(3, state=t.place(start))
  assert_close(permute(plain.cohort["net"].params), permuted.cohort["net"].params, 1e-4, 1e-5)
  np.testing.assert_allclose(plain_history[-1]["loss"][np.array(order)], history[-1]["loss"], rtol=1e-4)
