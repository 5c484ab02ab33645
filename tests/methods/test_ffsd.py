"""FFSD against numbers of its released code, and what its parts may and may not touch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdistill import losses, optim
from jaxdistill.core.method import Context, Setup
from jaxdistill.core.types import ModelOutput, Outputs, Views
from jaxdistill.errors import ConfigError
from jaxdistill.methods import ffsd
from tests.helpers import toy
from tests.helpers.on_logits import nobody

FORWARD, GRADIENT = dict(rtol=2e-5, atol=1e-6), dict(rtol=1e-4, atol=1e-6)
nhwc = lambda x: jnp.transpose(x, (0, 2, 3, 1))
nchw = lambda x: np.transpose(x, (0, 3, 1, 2))
kernel = lambda w: jnp.transpose(w, (2, 3, 1, 0))
# PyTorch's transposed convolution is the gradient of a convolution: kernel turned round, in and out swapped.
transposed_kernel = lambda w: jnp.transpose(w, (2, 3, 0, 1))[::-1, ::-1]
norm = lambda g, name: {"scale": jnp.asarray(g[f"{name}_weight"]), "bias": jnp.asarray(g[f"{name}_bias"])}
fresh = lambda *sizes: {f"BatchNorm_{i}": {"mean": jnp.zeros(n), "var": jnp.ones(n)} for i, n in enumerate(sizes)}


def separable(g, name):
  return {"Conv_0": {"kernel": kernel(g[f"{name}_conv1_weight"])}, "BatchNorm_0": norm(g, f"{name}_bn1"),
          "Conv_1": {"kernel": kernel(g[f"{name}_conv1_1_weight"])}, "BatchNorm_1": norm(g, f"{name}_bn1_1")}


def assert_statistics(stats, g, names, count):
  """Compares running statistics after one batch; PyTorch's variance is the unbiased one."""
  for layer, name in names.items():
    unbiased = 0.9 + (stats[layer]["var"] - 0.9) * count / (count - 1)
    np.testing.assert_allclose(stats[layer]["mean"], g[f"{name}_running_mean"], **FORWARD)
    np.testing.assert_allclose(unbiased, g[f"{name}_running_var"], **FORWARD)


def test_fusion_and_transfer_match_released_code(golden):
  g = golden("09b_ffsd_modules")
  params = {"_Separable_0": separable(g, "fm"),
            "Dense_0": {"kernel": jnp.asarray(g["fm_fc2_weight"].T), "bias": jnp.asarray(g["fm_fc2_bias"])}}
  (fused, logits), stats = ffsd._train(ffsd._Fusion(4, 5), params, {"_Separable_0": fresh(8, 4)}, nhwc(g["fusion_in"]))
  np.testing.assert_allclose(nchw(fused), g["fusion_map"], **FORWARD)
  np.testing.assert_allclose(logits, g["fusion_logits"], **FORWARD)
  assert_statistics(stats["_Separable_0"], g, {"BatchNorm_0": "fm_bn1", "BatchNorm_1": "fm_bn1_1"}, 48)
  restored, stats = ffsd._train(ffsd._Separable(8), separable(g, "tf"), fresh(4, 8), nhwc(g["trans_in"]))
  np.testing.assert_allclose(nchw(restored), g["trans_out"], **FORWARD)
  assert_statistics(stats, g, {"BatchNorm_0": "tf_bn1", "BatchNorm_1": "tf_bn1_1"}, 48)


LADDER, RATE, DECAY = ffsd._Ladder((2, 4)), 1e-3, 1e-4


def ladder_params(g):
  """Parameters of the self-distillation module after its step, deepest block first."""
  return {f"{kind}_{i}": value for i in (0, 1) for kind, value in (
      ("Conv", {"kernel": transposed_kernel(g[f"after_layer{i}_convtranpose_weight"])}),
      ("BatchNorm", norm(g, f"after_layer{i}_norm")))}


def ladder_losses(params, maps):
  """Attention and feature loss of the module on a member's maps, and its new statistics."""
  made, stats = ffsd._train(LADDER, params, fresh(4, 2), maps[-1])
  pairs = list(zip(made, maps))
  return (1000 * sum(ffsd._attention_distance(*pair, "released") for pair in pairs),
          1000 * sum(ffsd._map_distance(*pair, "released") for pair in pairs), stats)


def ladder_start(g, maps):
  """Parameters before the step. The file holds them only after it, but Adam's first step has size RATE everywhere."""
  after = ladder_params(g)
  norms = {f"BatchNorm_{i}": {"scale": jnp.ones(n), "bias": jnp.zeros(n)} for i, n in enumerate((4, 2))}
  params = after | norms
  undo = lambda w, p, d: w + RATE * jnp.sign(d + DECAY * p)
  gradient = jax.jit(jax.grad(lambda p: sum(ladder_losses(p, maps)[:2])))
  # The second round corrects the few signs that differ between the two ends of the step.
  for _ in range(2):
    grads = gradient(params)
    params = norms | {name: jax.tree.map(undo, after[name], params[name], grads[name]) for name in ("Conv_0", "Conv_1")}
  return params


def test_self_distillation_matches_released_code(golden):
  g = golden("09b_ffsd_modules")
  maps = [nhwc(g[name]) for name in ("f1", "f2", "f3")]
  params = ladder_start(g, maps)
  wanted = ffsd._run(LADDER, params, fresh(4, 2), nhwc(g["sd_input"]))
  np.testing.assert_allclose(nchw(wanted[1]), g["sd_eval_out0"], **FORWARD)
  np.testing.assert_allclose(nchw(wanted[0]), g["sd_eval_out1"], **FORWARD)
  distance = lambda fs: sum(ffsd._attention_distance(f, w, "released") for f, w in zip(fs, wanted))
  value, grads = jax.value_and_grad(distance)(maps)
  np.testing.assert_allclose(value, g["sd_eval_loss"], **FORWARD)
  for name, grad in zip(("grad_f1", "grad_f2", "grad_f3"), grads):
    np.testing.assert_allclose(nchw(grad), g[name], **GRADIENT)

  attention, feature, stats = ladder_losses(params, maps)
  np.testing.assert_allclose(attention, g["sd_train_attention"], **FORWARD)
  np.testing.assert_allclose(feature, g["sd_train_feature"], **FORWARD)
  tx = optim.make_optimizer(name="adam", learning_rate=RATE, weight_decay=DECAY, schedule="constant",
                            steps_per_epoch=1, total_steps=1)
  grads = jax.grad(lambda p: sum(ladder_losses(p, maps)[:2]))(params)
  updates, _ = tx.update(grads, tx.init(params), params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
               optax.apply_updates(params, updates), ladder_params(g))
  for i, count in enumerate((192, 768)):
    assert_statistics(stats, g, {f"BatchNorm_{i}": f"after_layer{i}_norm"}, count)


def test_logit_terms_match_released_code(golden):
  g = golden("09c_ffsd_logit_objectives")
  target = jax.nn.one_hot(g["labels"], 10)[None].repeat(3, 0)
  def total(logits, fusion):
    outputs = Outputs(logits, jnp.ones(3, bool), {})
    ce, kl, fusion_ce, fusion_kl = ffsd._logit_terms(outputs, fusion, target, 2, 2.0, "released")
    return (ce + kl).sum() + fusion_ce + fusion_kl, (*(ce + kl), fusion_ce + fusion_kl)
  logits = jnp.stack([g["z1"], g["z2"], g["z_leader"]])
  grads, values = jax.grad(total, argnums=(0, 1), has_aux=True)(logits, g["z_fusion"])
  np.testing.assert_allclose(values, [g[name] for name in ("L1", "L2", "Lleader", "Lfusion")], **FORWARD)
  np.testing.assert_allclose(grads[0], np.stack([g["g1"], g["g2"], g["g0"]]), **GRADIENT)
  np.testing.assert_allclose(grads[1], g["gf"], **GRADIENT)


def test_warm_up_matches_released_code(golden):
  rows = [float(ffsd._ramp(epoch, 5)) * np.array([1e-5, 10, 1000]) for epoch in range(9)]
  np.testing.assert_allclose(rows, golden("09_ffsd_losses")["warmup"], rtol=2e-5)
  assert ffsd._ramp(1, 0) == 1


def random_outputs(rng, members=3, shapes=((8, 8, 2), (4, 4, 4)), dead=()):
  alive = np.array([m not in dead for m in range(members)])
  draw = lambda *shape: jnp.asarray(rng.normal(size=(members, 6, *shape)) * alive.reshape(-1, *[1] * (len(shape) + 1)),
                                    jnp.float32)
  output = ModelOutput(draw(5), {f"stage{i}": draw(*shape) for i, shape in enumerate(shapes, 1)})
  return Outputs(output.logits, jnp.asarray(alive), {"net": output})


def start(method, outputs):
  return jax.jit(lambda: method.init(jax.random.key(0), Setup((), 5, 6, 1, 1, outputs, {})))()


def objective(method, outputs, state, epoch=0):
  target = jax.nn.one_hot(jnp.arange(6) % 5, 5)[None].repeat(len(outputs.logits), 0)
  context = Context(jnp.int32(epoch), jnp.int32(epoch), 9, 1, jax.random.key(0), None, None)
  return method.loss(*state, outputs, None, Views(None, target, nobody(6)), context)


@pytest.mark.parametrize("variant", ["released", "paper"])
def test_each_loss_trains_its_own_part_only(rng, variant):
  method, outputs = ffsd.ffsd(variant=variant, diversity_weight=1.0, ramp_epochs=0), random_outputs(rng)
  params, memory = start(method, outputs)
  def every_loss(features, logits, params):
    changed = outputs.replace(logits=logits, groups={"net": ModelOutput(logits, features)})
    result = objective(method, changed, (params, memory))
    return jnp.append(result.member, result.shared)
  by_features, by_logits, by_params = jax.jit(jax.jacrev(every_loss, argnums=(0, 1, 2)))(
      outputs.groups["net"].features, outputs.logits, params)
  reach = lambda tree: np.max([np.abs(x).reshape(*x.shape[:2], -1).max(-1) > 0 for x in jax.tree.leaves(tree)], axis=0)
  # Rows are the losses of students 0 and 1, leader and the modules; the first student learns from logits alone.
  np.testing.assert_array_equal(reach(by_features["stage2"]), [[0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
  np.testing.assert_array_equal(reach(by_logits), [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
  np.testing.assert_array_equal(reach(by_features["stage1"]), [[0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])
  moved = lambda tree: np.max([np.abs(x).reshape(4, -1).max(1) > 0 for x in jax.tree.leaves(tree)], axis=0).tolist()
  assert {part: moved(tree) for part, tree in by_params.items()} == {
      "fusion": [0, 0, 0, 1], "transfer": [0, 0, 1, 0], "self": [0, 0, 0, 1]}
  assert set(params["self"]) == {"net.1", "net.2"}


def test_weights_multiply_their_terms_and_rise(rng):
  outputs = random_outputs(rng)
  plain, weighted = ffsd.ffsd(diversity_weight=0, fusion_weight=0, self_weight=0), ffsd.ffsd(diversity_weight=0.5)
  state = start(plain, outputs)
  base, first, full = (objective(m, outputs, state, e) for m, e in ((plain, 0), (weighted, 0), (weighted, 7)))
  added = full.member - base.member
  np.testing.assert_allclose(added[0], 0, atol=1e-6)
  np.testing.assert_allclose(added[1], 0.5 * full.metrics["attention"][1], rtol=1e-4)
  assert added[2] > 10 * full.metrics["attention"][2]
  stages, own = [outputs.groups["net"].features[f"stage{i}"] for i in (1, 2)], 0
  for m in (1, 2):
    (made,), _ = ffsd._train(ffsd._Ladder((2,)), *(part["self"][f"net.{m}"] for part in state), stages[1][m])
    own += sum(near(made, stages[0][m], "released") for near in (ffsd._attention_distance, ffsd._map_distance))
  np.testing.assert_allclose(full.metrics["self"], own, rtol=1e-4)
  np.testing.assert_allclose(full.shared - base.shared, 1000 * full.metrics["self"], rtol=1e-4)
  np.testing.assert_allclose((first.member - base.member)[1:], np.exp(-5 * 0.8**2) * added[1:], rtol=1e-3, atol=1e-6)


def test_paper_sums_the_peers_and_weighs_the_leaders_stages_as_the_modules(rng):
  outputs = random_outputs(rng, members=4)
  state = start(ffsd.ffsd(), outputs)
  run = lambda variant: objective(ffsd.ffsd(variant=variant, fusion_weight=0), outputs, state, 7)
  released, paper = run("released"), run("paper")
  np.testing.assert_allclose(paper.metrics["kl"], np.array([2, 2, 2, 1]) * released.metrics["kl"], rtol=1e-5)
  assert (paper.member - paper.metrics["kl"])[3] > (released.member - released.metrics["kl"])[3] + 100


def test_paper_distances(rng):
  first, second = np.asarray(rng.normal(size=(2, 3, 4, 4, 2)), np.float32)
  unit = lambda x: x.reshape(3, -1) / np.linalg.norm(x.reshape(3, -1), axis=1, keepdims=True)
  length = lambda a, b: np.linalg.norm(unit(a) - unit(b), axis=1).mean()
  attention, previous = (first**2).sum(-1).reshape(3, -1), (second**2).sum(-1).reshape(3, -1)
  np.testing.assert_allclose(ffsd._map_distance(first, second, "paper"), length(first, second), rtol=2e-5)
  np.testing.assert_allclose(ffsd._attention_distance(first, second, "paper"), length(attention, previous), rtol=2e-5)
  size, threshold = np.linalg.norm(previous, axis=1, keepdims=True), np.sort(previous, axis=1)[:, 4:5]
  shifted = np.where(previous == threshold, size / 2, np.where(previous > threshold, size - previous, previous))
  distance, target = ffsd._diversity(jnp.asarray(first), jnp.asarray(second), "paper")
  np.testing.assert_allclose(distance, length(attention, shifted), rtol=2e-5)
  np.testing.assert_allclose((target - second).sum(-1).reshape(3, -1), shifted - previous, rtol=1e-4, atol=1e-5)
  released = ffsd._diversity(jnp.asarray(first), jnp.asarray(second), "released")[0]
  assert abs(released - distance**2 / 16) > 0.1
  for near in (ffsd._map_distance, ffsd._attention_distance):
    assert all(np.isfinite(jax.grad(near)(x, x, "paper")).all() for x in (first, 0 * first))


def test_dead_student_teaches_nobody(rng):
  method = ffsd.ffsd(diversity_weight=1.0)
  outputs = random_outputs(rng, members=4, dead=(1,))
  state = start(method, outputs)
  result = objective(method, outputs, state)
  alone = losses.kl_divergence(outputs.logits[0], outputs.logits[2], 2.0).mean()
  np.testing.assert_allclose(result.metrics["kl"][0], alone, rtol=1e-5)
  assert result.metrics["attention"][2] == 0
  unchanged = jax.tree.map(lambda a, b: bool((a == b).all()), result.memory["self"], state[1]["self"])
  assert all(jax.tree.leaves(unchanged["net.1"])) and not any(jax.tree.leaves(unchanged["net.2"]))
  assert np.isfinite([*result.member, result.shared]).all()
  target = jax.nn.one_hot(jnp.arange(6) % 5, 5)[None].repeat(4, 0)
  fusion, mean = outputs.logits[3], (outputs.logits[0] + outputs.logits[2]) / 2
  fusion_kl = ffsd._logit_terms(outputs, fusion, target, 3, 2.0, "released")[3]
  np.testing.assert_allclose(fusion_kl, losses.kl_divergence(fusion, mean, 2.0).mean(), rtol=1e-5)


def test_one_stage_has_no_self_distillation(rng):
  method, outputs = ffsd.ffsd(stages=("stage2",)), random_outputs(rng)
  params, memory = start(method, outputs)
  assert params["self"] == memory["self"] == {}
  assert objective(method, outputs, (params, memory)).metrics["attention"][1] > 0
  tx = method.tx(toy.optimizer)
  tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)


def test_modules_have_their_own_optimisers(rng):
  method = ffsd.ffsd(fusion_weight_decay=0.5, self_weight_decay=0.0, self_learning_rate=1e-3)
  params, _ = start(method, random_outputs(rng))
  tx = method.tx(lambda **keys: toy.optimizer(**{"weight_decay": 0.25, "clip_norm": 0.0, "momentum": 0.0, **keys}))
  ones = jax.tree.map(jnp.ones_like, params)
  grads = {part: jax.tree.map(lambda x: x * (part == "self"), tree) for part, tree in ones.items()}
  updates, _ = tx.update(grads, tx.init(ones), ones)
  for part, expected in {"fusion": -0.1 * 0.5, "transfer": -0.1 * 0.25, "self": -1e-3}.items():
    for leaf in jax.tree.leaves(updates[part]):
      np.testing.assert_allclose(leaf, expected, rtol=1e-5)


def test_leader_may_be_any_member(rng):
  outputs = random_outputs(rng)
  method = ffsd.ffsd(leader="net.0")
  state = start(method, outputs)
  assert set(state[0]["self"]) == {"net.0", "net.2"}
  assert method.exported(outputs.members) == ("net.0",) and ffsd.ffsd().exported(outputs.members) == ("net.2",)
  metrics = objective(method, outputs, state).metrics
  assert metrics["attention"][1] == 0 and metrics["attention"][0] > 0 and metrics["attention"][2] > 0


def test_predictions(rng):
  method, outputs = ffsd.ffsd(), random_outputs(rng)
  state = start(method, outputs)
  predicted = method.predict(*state, outputs)
  assert set(predicted) == {"ensemble", "fusion"}
  np.testing.assert_allclose(predicted["fusion"].sum(-1), 1, rtol=1e-5)
  np.testing.assert_allclose(predicted["ensemble"], jax.nn.softmax(outputs.logits).mean(0), rtol=1e-5)
  part = Outputs(outputs.logits[:, :3], outputs.alive, jax.tree.map(lambda x: x[:, :3], outputs.groups))
  np.testing.assert_allclose(method.predict(*state, part)["fusion"], predicted["fusion"][:3], rtol=1e-5)


def test_unsuitable_cohorts_are_refused_in_one_line(rng):
  with pytest.raises(ConfigError, match=r"leader 'x' is no member: members are net\.0, net\.1, wide\.0"):
    toy.Trial(ffsd.ffsd(leader="x"), toy.cohort("mixed")).initial
  with pytest.raises(ConfigError, match=r"students must have one architecture: stage1 is \[4, 4, 4\] in net and "
                                        r"\[4, 4, 6\] in wide"):
    toy.Trial(ffsd.ffsd(leader="net.0"), toy.cohort("mixed")).initial


@pytest.mark.parametrize("shapes, stages, text", [
    (((8, 8, 2), (8, 8, 4)), (), r"stage2 must have half .* of stage1, but they are \[8, 8\] and \[8, 8\] in net"),
    (((8, 8, 2), (2, 2, 4)), (), r"method.stages: stage2 must have half"),
    (((8, 8, 2), (4, 4, 4)), ("stage2", "stage1"), r"method.stages: stage1 must have half"),
    (((8, 8, 2), (4, 4, 4)), ("pooled",), r"'pooled' is no feature map of net: it has stage1, stage2"),
    ((), (), r"the members share no map stage1")])
def test_unsuitable_stages_are_refused(rng, shapes, stages, text):
  with pytest.raises(ConfigError, match=text):
    start(ffsd.ffsd(stages=stages), random_outputs(rng, shapes=shapes))


def test_leader_of_another_size_is_refused(rng):
  small, large = (random_outputs(rng, members=n, shapes=s) for n, s in ((2, ((8, 8, 2),)), (1, ((4, 4, 2),))))
  outputs = Outputs(jnp.concatenate([small.logits, large.logits]), jnp.ones(3, bool),
                    {"net": small.groups["net"], "wide": large.groups["net"]})
  with pytest.raises(ConfigError, match=r"leader's maps .*: stage1 is \[8, 8\] in net and \[4, 4\] in wide"):
    start(ffsd.ffsd(), outputs)
  with pytest.raises(ConfigError, match="variant must be one of released, paper"):
    ffsd.ffsd(variant="x")
