"""FFSD against numbers of its released code, and what its parts may touch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill import losses, optim
from jaxdistill.core.durations import Clock
from jaxdistill.core.method import SHARED, Setup
from jaxdistill.core.types import ModelOutput, Outputs
from jaxdistill.errors import ConfigError
from jaxdistill.methods import ffsd
from jaxdistill.methods._ffsd_distances import PRINTED, RELEASED
from jaxdistill.methods._ffsd_modules import (
  Fusion,
  Ladder,
  Separable,
  run_module,
  train_module,
)
from tests.helpers import toy
from tests.helpers.on_logits import method, step_on

FORWARD = {"rtol": 2e-5, "atol": 1e-6}
GRADIENT = {"rtol": 1e-4, "atol": 1e-6}


def nhwc(x):
  return jnp.transpose(x, (0, 2, 3, 1))


def nchw(x):
  return np.transpose(x, (0, 3, 1, 2))


def kernel(weight):
  return jnp.transpose(weight, (2, 3, 1, 0))


def transposed_kernel(weight):
  """PyTorch's transposed convolution is the gradient of a convolution.

  The kernel is turned round, in and out are swapped.
  """
  return jnp.transpose(weight, (2, 3, 0, 1))[::-1, ::-1]


def norm(g, name):
  return {
    "scale": jnp.asarray(g[f"{name}_weight"]),
    "bias": jnp.asarray(g[f"{name}_bias"]),
  }


def fresh(*sizes):
  """Running statistics before the first batch."""
  stats = {}
  for i, size in enumerate(sizes):
    stats[f"BatchNorm_{i}"] = {"mean": jnp.zeros(size), "var": jnp.ones(size)}
  return stats


def separable(g, name):
  return {
    "Conv_0": {"kernel": kernel(g[f"{name}_conv1_weight"])},
    "BatchNorm_0": norm(g, f"{name}_bn1"),
    "Conv_1": {"kernel": kernel(g[f"{name}_conv1_1_weight"])},
    "BatchNorm_1": norm(g, f"{name}_bn1_1"),
  }


def assert_statistics(stats, g, names, count):
  """Compares running statistics after one batch; PyTorch's variance is unbiased."""
  for layer, name in names.items():
    unbiased = 0.9 + (stats[layer]["var"] - 0.9) * count / (count - 1)
    mean = stats[layer]["mean"]
    np.testing.assert_allclose(mean, g[f"{name}_running_mean"], **FORWARD)
    np.testing.assert_allclose(unbiased, g[f"{name}_running_var"], **FORWARD)


def test_fusion_and_transfer_match_released_code(golden):
  g = golden("09b_ffsd_modules")
  params = {
    "_Separable_0": separable(g, "fm"),
    "Dense_0": {
      "kernel": jnp.asarray(g["fm_fc2_weight"].T),
      "bias": jnp.asarray(g["fm_fc2_bias"]),
    },
  }
  (fused, logits), stats = train_module(
    Fusion(4, 5), params, {"_Separable_0": fresh(8, 4)}, nhwc(g["fusion_in"])
  )
  np.testing.assert_allclose(nchw(fused), g["fusion_map"], **FORWARD)
  np.testing.assert_allclose(logits, g["fusion_logits"], **FORWARD)
  names = {"BatchNorm_0": "fm_bn1", "BatchNorm_1": "fm_bn1_1"}
  assert_statistics(stats["_Separable_0"], g, names, 48)

  restored, stats = train_module(
    Separable(8), separable(g, "tf"), fresh(4, 8), nhwc(g["trans_in"])
  )
  np.testing.assert_allclose(nchw(restored), g["trans_out"], **FORWARD)
  names = {"BatchNorm_0": "tf_bn1", "BatchNorm_1": "tf_bn1_1"}
  assert_statistics(stats, g, names, 48)


LADDER = Ladder((2, 4))
RATE = 1e-3
DECAY = 1e-4


def ladder_params(g):
  """Parameters of the self-distillation module after its step, deepest block first."""
  params = {}
  for i in (0, 1):
    weight = g[f"after_layer{i}_convtranpose_weight"]
    params[f"Conv_{i}"] = {"kernel": transposed_kernel(weight)}
    params[f"BatchNorm_{i}"] = norm(g, f"after_layer{i}_norm")
  return params


def ladder_losses(params, maps):
  """Attention and feature loss of the module on a member's maps, new statistics."""
  made, stats = train_module(LADDER, params, fresh(4, 2), maps[-1])
  attention = feature = 0.0
  for own, wanted in zip(made, maps[:-1], strict=True):
    attention += 1000 * RELEASED.attention(own, wanted)
    feature += 1000 * RELEASED.features(own, wanted)
  return attention, feature, stats


def ladder_gradient(params, maps):
  def total(params):
    attention, feature, _ = ladder_losses(params, maps)
    return attention + feature

  return jax.grad(total)(params)


def ladder_start(g, maps):
  """Parameters before the step.

  The file holds them only after it, but Adam's first step has size RATE everywhere.
  """
  after = ladder_params(g)
  norms = {}
  for i, size in enumerate((4, 2)):
    norms[f"BatchNorm_{i}"] = {"scale": jnp.ones(size), "bias": jnp.zeros(size)}
  params = after | norms
  gradient = jax.jit(lambda params: ladder_gradient(params, maps))

  def undo(weight, before, grad):
    return weight + RATE * jnp.sign(grad + DECAY * before)

  # The second round corrects the few signs that differ between the two ends of the
  # step.
  for _ in range(2):
    grads = gradient(params)
    kernels = {}
    for name in ("Conv_0", "Conv_1"):
      kernels[name] = jax.tree.map(undo, after[name], params[name], grads[name])
    params = norms | kernels
  return params


def test_self_distillation_matches_released_code(golden):
  g = golden("09b_ffsd_modules")
  maps = [nhwc(g[name]) for name in ("f1", "f2", "f3")]
  params = ladder_start(g, maps)
  wanted = run_module(LADDER, params, fresh(4, 2), nhwc(g["sd_input"]))
  np.testing.assert_allclose(nchw(wanted[1]), g["sd_eval_out0"], **FORWARD)
  np.testing.assert_allclose(nchw(wanted[0]), g["sd_eval_out1"], **FORWARD)

  def distance(features):
    pairs = zip(features[:-1], wanted, strict=True)
    return sum(RELEASED.attention(own, other) for own, other in pairs)

  value, grads = jax.value_and_grad(distance)(maps)
  np.testing.assert_allclose(value, g["sd_eval_loss"], **FORWARD)
  for name, grad in zip(("grad_f1", "grad_f2", "grad_f3"), grads, strict=True):
    np.testing.assert_allclose(nchw(grad), g[name], **GRADIENT)

  attention, feature, stats = ladder_losses(params, maps)
  np.testing.assert_allclose(attention, g["sd_train_attention"], **FORWARD)
  np.testing.assert_allclose(feature, g["sd_train_feature"], **FORWARD)
  keys = {
    "name": "adam",
    "learning_rate": RATE,
    "weight_decay": DECAY,
    "schedule": "constant",
  }
  tx = optim.make_optimizer(keys, Clock(steps_per_epoch=1, total_steps=1))
  grads = ladder_gradient(params, maps)
  updates, _ = tx.update(grads, tx.init(params), params, step=0)

  def check(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)

  jax.tree.map(check, optax.apply_updates(params, updates), ladder_params(g))
  for i, count in enumerate((192, 768)):
    assert_statistics(stats, g, {f"BatchNorm_{i}": f"after_layer{i}_norm"}, count)


def logit_terms(step, fusion_logits, leader):
  """The terms of the released code at T = 2."""
  return ffsd._logit_terms(
    step, fusion_logits, leader, temperature=2.0, mean_over_peers=True
  )


def test_logit_terms_match_released_code(golden):
  g = golden("09c_ffsd_logit_objectives")

  def total(logits, fusion):
    step = step_on(logits, g["labels"])
    terms = logit_terms(step, fusion, 2)
    member = step.label_loss + terms.kl
    shared = terms.fusion_ce + terms.fusion_kl
    return member.sum() + shared, jnp.append(member, shared)

  logits = jnp.stack([g["z1"], g["z2"], g["z_leader"]])
  gradient = jax.grad(total, argnums=(0, 1), has_aux=True)
  (by_logits, by_fusion), values = gradient(logits, g["z_fusion"])
  expected = [g[name] for name in ("L1", "L2", "Lleader", "Lfusion")]
  np.testing.assert_allclose(values, expected, **FORWARD)
  np.testing.assert_allclose(by_logits, [g["g1"], g["g2"], g["g0"]], **GRADIENT)
  np.testing.assert_allclose(by_fusion, g["gf"], **GRADIENT)


def test_warm_up_matches_released_code(golden):
  weights = np.array([1e-5, 10, 1000])
  rows = [float(ffsd._ramp(epoch, 5)) * weights for epoch in range(9)]
  np.testing.assert_allclose(rows, golden("09_ffsd_losses")["warmup"], rtol=2e-5)
  assert ffsd._ramp(1, 0) == 1


def random_outputs(rng, members=3, shapes=((8, 8, 2), (4, 4, 4)), diverged=()):
  """Outputs of a group for six examples; those of diverged members are zero."""
  alive = np.array([m not in diverged for m in range(members)])

  def draw(*shape):
    mask = alive.reshape(-1, 1, *[1] * len(shape))
    return jnp.asarray(rng.normal(size=(members, 6, *shape)) * mask, jnp.float32)

  logits = draw(5)
  features = {f"stage{i}": draw(*shape) for i, shape in enumerate(shapes, 1)}
  groups = {"net": ModelOutput(logits, features)}
  return Outputs(logits, jnp.asarray(alive), groups)


def start(which, outputs):
  """The method's initial modules."""
  setup = Setup(
    specs=(),
    num_classes=5,
    num_examples=6,
    steps_per_epoch=1,
    total_steps=1,
    outputs=outputs,
    cohort={},
  )
  modules, _ = jax.jit(lambda: which.init(jax.random.key(0), setup))()
  return modules


def step_of(outputs, modules=None, epoch=0):
  step = step_on(
    outputs.logits, jnp.arange(6) % 5, modules=modules, epoch=epoch, num_epochs=9
  )
  return step._replace(outputs=outputs, first=outputs)


def objective(which, outputs, modules, epoch=0):
  return which.loss(step_of(outputs, modules, epoch))


def reached(jacobian):
  """Whether a loss (row) reaches a member (column) through any array of a pytree."""
  nonzero = []
  for leaf in jax.tree.leaves(jacobian):
    nonzero.append(np.abs(leaf).reshape(*leaf.shape[:2], -1).max(-1) > 0)
  return np.max(nonzero, axis=0)


def moved(jacobian):
  """Whether a loss reaches any of a module's parameters."""
  nonzero = []
  for leaf in jax.tree.leaves(jacobian):
    nonzero.append(np.abs(leaf).reshape(len(leaf), -1).max(1) > 0)
  return np.max(nonzero, axis=0).tolist()


def parts_of(modules):
  """Returns (owner, name) -> what belongs to one module."""
  parts = {}
  for owner, named in modules.items():
    for name, tree in named.items():
      parts[owner, name] = tree
  return parts


@pytest.mark.parametrize(
  "variant", ["released", pytest.param("paper", marks=pytest.mark.slow)]
)
def test_each_loss_trains_its_own_part_only(rng, variant):
  which = method("ffsd", variant=variant, diversity_weight=1.0, ramp_epochs=0)
  outputs = random_outputs(rng)
  modules = start(which, outputs)

  def every_loss(features, logits, params):
    groups = {"net": ModelOutput(logits, features)}
    changed = outputs.replace(logits=logits, groups=groups)
    given = {owner: (params[owner], modules[owner][1]) for owner in modules}
    result = objective(which, changed, given)
    return jnp.append(result.member, result.shared)

  jacobian = jax.jit(jax.jacrev(every_loss, argnums=(0, 1, 2)))
  by_features, by_logits, by_params = jacobian(
    outputs.groups["net"].features,
    outputs.logits,
    {owner: params for owner, (params, _) in modules.items()},
  )
  # Rows are the losses of students 0 and 1, leader and the modules; the first student
  # learns from logits alone.
  on_features = [[0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
  on_logits = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
  np.testing.assert_array_equal(reached(by_features["stage2"]), on_features)
  np.testing.assert_array_equal(reached(by_logits), on_logits)
  np.testing.assert_array_equal(reached(by_features["stage1"]), on_features)
  assert {name: moved(tree) for name, tree in parts_of(by_params).items()} == {
    (SHARED, "fusion"): [0, 0, 0, 1],
    ("net.2", "transfer"): [0, 0, 1, 0],
    ("net.1", "ladder"): [0, 0, 0, 1],
    ("net.2", "ladder"): [0, 0, 0, 1],
  }


def test_weights_multiply_their_terms_and_rise(rng):
  outputs = random_outputs(rng)
  plain = method("ffsd", diversity_weight=0, fusion_weight=0, self_weight=0)
  weighted = method("ffsd", diversity_weight=0.5)
  state = start(plain, outputs)
  base = objective(plain, outputs, state, epoch=0)
  first = objective(weighted, outputs, state, epoch=0)
  full = objective(weighted, outputs, state, epoch=7)

  added = full.member - base.member
  attention = full.metrics["attention"]
  np.testing.assert_allclose(added[0], 0, atol=1e-6)
  np.testing.assert_allclose(added[1], 0.5 * attention[1], rtol=1e-4)
  assert added[2] > 10 * attention[2]

  # The modules' own loss.
  stages = outputs.groups["net"].features
  own = 0.0
  for m in (1, 2):
    params, stats = state[f"net.{m}"]
    ladder = (params["ladder"], stats["ladder"])
    (made,), _ = train_module(Ladder((2,)), *ladder, stages["stage2"][m])
    own += RELEASED.attention(made, stages["stage1"][m])
    own += RELEASED.features(made, stages["stage1"][m])
  np.testing.assert_allclose(full.metrics["self"], own, rtol=1e-4)
  modules = full.shared - base.shared
  np.testing.assert_allclose(modules, 1000 * full.metrics["self"], rtol=1e-4)

  rise = (first.member - base.member)[1:]
  expected = np.exp(-5 * 0.8**2) * added[1:]
  np.testing.assert_allclose(rise, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_paper_sums_the_peers_and_weighs_the_leaders_stages_as_the_modules(rng):
  outputs = random_outputs(rng, members=4)
  state = start(method("ffsd"), outputs)

  def run(variant):
    which = method("ffsd", variant=variant, fusion_weight=0)
    return objective(which, outputs, state, epoch=7)

  released = run("released")
  paper = run("paper")
  expected = np.array([2, 2, 2, 1]) * released.metrics["kl"]
  np.testing.assert_allclose(paper.metrics["kl"], expected, rtol=1e-5)
  paper_rest = paper.member - paper.metrics["kl"]
  released_rest = released.member - released.metrics["kl"]
  assert paper_rest[3] > released_rest[3] + 100


def unit(x):
  flat = x.reshape(3, -1)
  return flat / np.linalg.norm(flat, axis=1, keepdims=True)


def length(a, b):
  return np.linalg.norm(unit(a) - unit(b), axis=1).mean()


def test_printed_distances(rng):
  first, second = np.asarray(rng.normal(size=(2, 3, 4, 4, 2)), np.float32)
  own = (first**2).sum(-1).reshape(3, -1)
  previous = (second**2).sum(-1).reshape(3, -1)
  distance = PRINTED.features(first, second)
  np.testing.assert_allclose(distance, length(first, second), rtol=2e-5)
  distance = PRINTED.attention(first, second)
  np.testing.assert_allclose(distance, length(own, previous), rtol=2e-5)

  # Equation 7: what is above the threshold is turned into the rest of the norm.
  size = np.linalg.norm(previous, axis=1, keepdims=True)
  threshold = np.sort(previous, axis=1)[:, 4:5]
  shifted = np.where(previous > threshold, size - previous, previous)
  shifted = np.where(previous == threshold, size / 2, shifted)
  distance, target = PRINTED.diversity(jnp.asarray(first), jnp.asarray(second))
  np.testing.assert_allclose(distance, length(own, shifted), rtol=2e-5)
  change = (target - second).sum(-1).reshape(3, -1)
  np.testing.assert_allclose(change, shifted - previous, rtol=1e-4, atol=1e-5)
  released, _ = RELEASED.diversity(jnp.asarray(first), jnp.asarray(second))
  assert abs(released - distance**2 / 16) > 0.1


@pytest.mark.parametrize("distance", [PRINTED.features, PRINTED.attention])
def test_printed_distances_of_equal_maps_have_a_finite_gradient(rng, distance):
  x = np.asarray(rng.normal(size=(3, 4, 4, 2)), np.float32)
  for values in (x, 0 * x):
    assert np.isfinite(jax.grad(distance)(values, values)).all()


@pytest.mark.slow
def test_paper_compares_the_leaders_maps_themselves(rng):
  """Equations 5 and 13, by hand."""
  outputs = random_outputs(rng)
  stages = outputs.groups["net"].features
  shallow, deep = stages["stage1"][2], stages["stage2"][2]
  joined = jnp.concatenate(list(stages["stage2"][:2]), axis=-1)

  def distance(a, b):
    flat = [np.reshape(x, (6, -1)) for x in (a, b)]
    own, other = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in flat]
    return np.linalg.norm(own - other, axis=1).mean()

  which = method("ffsd", variant="paper", fusion_weight=1, self_weight=1, ramp_epochs=0)
  modules = start(which, outputs)
  params, stats = modules[SHARED]
  (fused, _), _ = train_module(Fusion(4, 5), params["fusion"], stats["fusion"], joined)
  params, stats = modules["net.2"]
  restored, _ = train_module(Separable(8), params["transfer"], stats["transfer"], deep)
  (made,) = run_module(Ladder((2,)), params["ladder"], stats["ladder"], fused)
  last_stage = distance(deep, fused) + distance(restored, joined)

  objective = which.loss(step_of(outputs, modules))
  added = objective.member - step_of(outputs).label_loss - objective.metrics["kl"]
  np.testing.assert_allclose(objective.metrics["attention"][2], last_stage, rtol=1e-4)
  np.testing.assert_allclose(added[2], last_stage + distance(shallow, made), rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("bad", [1e20, jnp.inf])
def test_a_map_that_overflows_harms_no_other_member(rng, bad):
  which = method("ffsd", diversity_weight=1.0, ramp_epochs=0)
  outputs = random_outputs(rng, members=4)
  modules = start(which, outputs)
  maps = outputs.groups["net"].features["stage2"].at[1, 0, 0, 0, 0].set(bad)

  def losses_of(params, maps):
    features = {**outputs.groups["net"].features, "stage2": maps}
    changed = outputs.replace(groups={"net": ModelOutput(outputs.logits, features)})
    given = {owner: (params[owner], modules[owner][1]) for owner in modules}
    objective = which.loss(step_of(changed, given))
    return objective.member.sum() + objective.shared, objective

  params = {owner: params for owner, (params, _) in modules.items()}
  grads, objective = jax.grad(losses_of, argnums=(0, 1), has_aux=True)(params, maps)
  assert np.isfinite([*objective.member, objective.shared]).all()
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_a_diverged_student_does_not_teach(rng):
  which = method("ffsd", diversity_weight=1.0)
  outputs = random_outputs(rng, members=4, diverged=(1,))
  logits = outputs.logits
  state = start(which, outputs)
  result = objective(which, outputs, state)
  alone = losses.kl_divergence(logits[0], logits[2], 2.0).mean()
  np.testing.assert_allclose(result.metrics["kl"][0], alone, rtol=1e-5)
  assert result.metrics["attention"][2] == 0

  assert np.isfinite([*result.member, result.shared]).all()

  mean = (logits[0] + logits[2]) / 2
  terms = logit_terms(step_of(outputs), logits[3], 3)
  expected = losses.kl_divergence(logits[3], mean, 2.0).mean()
  np.testing.assert_allclose(terms.fusion_kl, expected, rtol=1e-5)


@pytest.mark.slow
def test_one_stage_has_no_self_distillation(rng):
  which = method("ffsd", stages=("stage2",))
  outputs = random_outputs(rng)
  modules = start(which, outputs)
  params = {owner: params for owner, (params, _) in modules.items()}
  assert set(parts_of(params)) == {(SHARED, "fusion"), ("net.2", "transfer")}
  metrics = objective(which, outputs, modules).metrics
  assert metrics["attention"][1] > 0


def test_modules_have_their_own_optimisers(rng):
  which = method(
    "ffsd", fusion_weight_decay=0.5, self_weight_decay=0.0, self_learning_rate=1e-3
  )
  modules = start(which, random_outputs(rng))

  def recipe(**keys):
    common = {"weight_decay": 0.25, "clip_norm": 0.0, "momentum": 0.0}
    return toy.optimizer(**{**common, **keys})

  # Only the self-distillation modules have a gradient; the others show their decay.
  expected = {"fusion": -0.1 * 0.5, "transfer": -0.1 * 0.25, "ladder": -1e-3}
  for owner, (params, _) in modules.items():
    ones = jax.tree.map(jnp.ones_like, params)
    grads = jax.tree.map(jnp.zeros_like, params)
    if "ladder" in ones:
      grads["ladder"] = ones["ladder"]
    tx = which.tx(owner, recipe)
    updates, _ = tx.update(grads, tx.init(ones), ones, step=0)
    for name, update in updates.items():
      for leaf in jax.tree.leaves(update):
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-5)


@pytest.mark.parametrize(
  "variant, keys, decay",
  [
    ("released", {}, 1e-5),
    ("paper", {}, 0.25),
    ("paper", {"fusion_weight_decay": 0.0}, 0.0),
  ],
)
def test_the_fusion_decays_as_the_variant_says(variant, keys, decay):
  which = method("ffsd", variant=variant, **keys)
  given = {}

  def recipe(**changed):
    given.update({"weight_decay": 0.25, **changed})

  which.tx(SHARED, recipe)
  assert given["weight_decay"] == decay


def test_leader_may_be_any_member(rng):
  outputs = random_outputs(rng)
  which = method("ffsd", leader="net.0")
  modules = start(which, outputs)
  ladders = [owner for owner, (params, _) in modules.items() if "ladder" in params]
  assert sorted(ladders) == ["net.0", "net.2"]
  assert which.exported(outputs.members) == ("net.0",)
  assert method("ffsd").exported(outputs.members) == ("net.2",)
  attention = objective(which, outputs, modules).metrics["attention"]
  assert attention[1] == 0
  assert attention[0] > 0
  assert attention[2] > 0


def test_predictions(rng):
  which = method("ffsd")
  outputs = random_outputs(rng)
  modules = start(which, outputs)
  predicted = which.predict(modules, {}, outputs)
  assert set(predicted) == {"ensemble", "fusion"}
  np.testing.assert_allclose(np.exp(predicted["fusion"]).sum(-1), 1, rtol=1e-5)
  ensemble = jax.nn.softmax(outputs.logits).mean(0)
  np.testing.assert_allclose(np.exp(predicted["ensemble"]), ensemble, rtol=1e-5)

  # Of half of the examples.
  groups = jax.tree.map(lambda x: x[:, :3], outputs.groups)
  part = Outputs(outputs.logits[:, :3], outputs.alive, groups)
  fusion = which.predict(modules, {}, part)["fusion"]
  np.testing.assert_allclose(fusion, predicted["fusion"][:3], rtol=1e-4)


@pytest.mark.parametrize(
  "leader, text",
  [
    ("x", r"leader 'x' is no member: members are net\.0, net\.1, wide\.0"),
    (
      "net.0",
      "students must have one architecture: "
      r"stage1 is \[4, 4, 4\] in net and \[4, 4, 6\] in wide",
    ),
  ],
)
def test_unsuitable_cohorts_are_refused(leader, text):
  trial = toy.Trial(method("ffsd", leader=leader), toy.cohort("mixed"))
  with pytest.raises(ConfigError, match=text):
    jax.block_until_ready(trial.initial)


TWO_STAGES = ((8, 8, 2), (4, 4, 4))


@pytest.mark.parametrize(
  "shapes, stages, text",
  [
    (
      ((8, 8, 2), (8, 8, 4)),
      (),
      r"stage2 must have half .* of stage1, but they are \[8, 8\] and \[8, 8\] in net",
    ),
    (((8, 8, 2), (2, 2, 4)), (), r"method.stages: stage2 must have half"),
    (TWO_STAGES, ("stage2", "stage1"), r"method.stages: stage1 must have half"),
    (
      TWO_STAGES,
      ("pooled",),
      r"'pooled' is no feature map of net: it has stage1, stage2",
    ),
    ((), (), r"the members share no map stage1"),
  ],
)
def test_unsuitable_stages_are_refused(rng, shapes, stages, text):
  with pytest.raises(ConfigError, match=text):
    start(method("ffsd", stages=stages), random_outputs(rng, shapes=shapes))


def test_leader_of_another_size_is_refused(rng):
  small = random_outputs(rng, members=2, shapes=((8, 8, 2),))
  large = random_outputs(rng, members=1, shapes=((4, 4, 2),))
  outputs = Outputs(
    jnp.concatenate([small.logits, large.logits]),
    jnp.ones(3, bool),
    {"net": small.groups["net"], "wide": large.groups["net"]},
  )
  text = r"leader's maps .*: stage1 is \[8, 8\] in net and \[4, 4\] in wide"
  with pytest.raises(ConfigError, match=text):
    start(method("ffsd"), outputs)


def test_an_unknown_variant_is_refused():
  with pytest.raises(ConfigError, match="variant must be one of released, paper"):
    method("ffsd", variant="x")
