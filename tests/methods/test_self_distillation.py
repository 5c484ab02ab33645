"""Past predictions, shallow classifiers and mutual features: released code's numbers, the paper's rows, what is kept."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdistill
from jaxdistill import losses
from jaxdistill.core.types import ModelOutput, Outputs, Perturbation
from jaxdistill.errors import ConfigError
from jaxdistill.methods import _tables, layers
from jaxdistill.run import build
from tests.helpers import runs, toy
from tests.helpers.on_logits import evaluate, method

VALUE = dict(rtol=2e-5, atol=1e-6)
GRAD = dict(rtol=1e-4, atol=1e-6)


def remembering(past, unknown=()):
  """Memory of one member with these past predictions [B, C]."""
  past = jnp.asarray(past, jnp.float32).at[jnp.array(unknown, int)].set(0)
  table = _tables.create(len(past), past.shape[1], (1,))
  return {"past": _tables.write(table, jnp.arange(len(past)), past[:, None], jnp.ones(len(past)))}


def test_past_predictions_match_the_released_code(golden):
  g = golden("12_pskd")
  loss = lambda z: evaluate(method("ps_kd"), z[None], g["labels"], memory=remembering(g["prev_probs"]), epoch=149,
                            num_epochs=300).member.sum()
  value, grad = jax.value_and_grad(loss)(g["logits"])
  np.testing.assert_allclose(value, g["loss_out"], **VALUE)
  np.testing.assert_allclose(grad, g["grad"], **GRAD)


def test_an_example_without_a_past_keeps_its_label(golden):
  g = golden("12_pskd")
  def member(memory, **kwargs):
    return evaluate(method("ps_kd", **kwargs), g["logits"][None], g["labels"], memory=memory, epoch=299, num_epochs=300).member
  ce = losses.cross_entropy(g["logits"], g["labels"])
  np.testing.assert_allclose(member(remembering(g["prev_probs"], range(8))), [ce.mean()], rtol=1e-6)
  softened = losses.soft_cross_entropy(g["logits"], 0.2 * jax.nn.one_hot(g["labels"], 10) + 0.8 * g["prev_probs"])
  mixed = jnp.where(jnp.arange(8) == 3, ce, softened)
  np.testing.assert_allclose(member(remembering(g["prev_probs"], [3])), [mixed.mean()], rtol=1e-6)


def test_the_share_of_the_past_rises_or_is_constant(golden):
  g = golden("12_pskd")
  def share(epoch, **kwargs):
    """Solves L = (1 - a) CE + a H for a."""
    at = evaluate(method("ps_kd", **kwargs), g["logits"][None], g["labels"], memory=remembering(g["prev_probs"]), epoch=epoch,
                  num_epochs=10).member[0]
    hard = losses.cross_entropy(g["logits"], g["labels"]).mean()
    return float((at - hard) / (losses.soft_cross_entropy(g["logits"], g["prev_probs"]).mean() - hard))
  assert [share(e) for e in (0, 4, 9)] == pytest.approx([0.08, 0.4, 0.8], rel=1e-3)
  assert share(0, schedule="constant") == pytest.approx(0.8, rel=1e-3)


def test_what_is_remembered_is_the_prediction_before_the_update(golden):
  """Not for a member that saw the example mixed with another, nor for one that is not finite."""
  g = golden("12_pskd")
  logits = jnp.stack([g["logits"]] * 3).at[2, 0, 0].set(jnp.nan)
  mixed = Perturbation(jnp.int32(1), jnp.int32(0), jnp.arange(8)[::-1], jnp.float32(0.7))
  memory = {"past": _tables.create(8, 10, (3,))}
  new = evaluate(method("ps_kd"), logits, g["labels"], memory=memory, perturbation=mixed).memory["past"]
  rows = np.asarray(_tables.read(new, jnp.arange(8), 10))
  np.testing.assert_allclose(rows[:, 0], jax.nn.softmax(g["logits"]), rtol=1e-5)
  np.testing.assert_array_equal(rows[:, 1:], 0)


def test_previous_weights_are_those_of_the_end_of_the_last_epoch():
  trial = toy.Trial(method("ps_kd", source="previous_weights"), toy.cohort("mixed"))
  state, history = trial.run(toy.STEPS_PER_EPOCH)
  for h in history:
    np.testing.assert_allclose(h["loss"], h["ce"], rtol=1e-6)
  end = toy.arrays(state.cohort)
  state, history = trial.run(toy.STEPS_PER_EPOCH + 2, state=state, start=toy.STEPS_PER_EPOCH)
  for name, (params, stats) in toy.arrays(state.method.memory["past"]).items():
    jax.tree.map(np.testing.assert_array_equal, (params, stats), (end[name].params, end[name].stats))
  assert (np.abs(history[-1]["loss"] - history[-1]["ce"]) > 1e-3).all()




def shallow_loss(logits, feats, labels, shallow, target=None):
  """The shallow parts of one member whose branches gave these logits [4, B, C] and features [4, B, D], the last deepest."""
  outputs = Outputs(logits[3:], jnp.ones(1, bool), {"net": ModelOutput(logits[3:], {"pooled": feats[3:]})})
  results = {"net": {f"stage{i}": (logits[i:i + 1], feats[i:i + 1]) for i in range(3)}}
  target = jax.nn.one_hot(labels, logits.shape[-1]) if target is None else target
  return {k: v[0] for k, v in layers._shallow_losses(shallow, results, outputs, target[None]).items()}


def test_shallow_classifiers_match_the_released_code(golden):
  """Its cross-entropy with soft targets is our KL plus the teacher's entropy, which no gradient sees."""
  g = golden("06_byot")
  def total(logits, feats):
    parts = shallow_loss(logits, feats, g["labels"], layers.Shallow())
    deep = losses.cross_entropy(logits[3], g["labels"]).mean()
    return 0.9 * (deep + parts["shallow_ce"]) + 0.1 * parts["kl"] + 1e-6 * parts["hint"]
  p = jax.nn.softmax(g["logits"][3] / 3)
  entropy = 3 * 9 * -(p * jnp.log(p)).sum(-1).mean()
  value, grads = jax.value_and_grad(total, argnums=(0, 1))(g["logits"], g["feats"])
  np.testing.assert_allclose(value + 0.1 * entropy, g["total"], **VALUE)
  np.testing.assert_allclose(grads[0], g["grad_logits"], **GRAD)
  np.testing.assert_allclose(grads[1], g["grad_feats"], rtol=1e-4, atol=1e-9)
  hints = [losses.byot_hint(g["feats"][i], g["feats"][3]).sum() for i in range(3)]
  np.testing.assert_allclose(hints, g["feat"], **VALUE)


def test_branch_matches_the_released_code(golden):
  g = golden("06b_byot_bottleneck")
  conv = lambda w, b: {"kernel": jnp.transpose(g[w], (2, 3, 1, 0)), "bias": g[b]}
  norm = lambda scale, bias: {"scale": g[scale], "bias": g[bias]}
  params = {"Conv_0": conv("p0", "p1"), "BatchNorm_0": norm("p2", "p3"), "Conv_1": conv("p4", "p5"),
            "BatchNorm_1": norm("p6", "p7"), "Conv_2": conv("p8", "p9"), "BatchNorm_2": norm("p10", "p11")}
  module, x = layers.Branch(16, 4, 0), jnp.transpose(g["x"], (0, 2, 3, 1))
  stats = module.init(jax.random.key(0), x, train=False)["batch_stats"]
  (logits, pooled), _ = module.apply({"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"])
  assert logits is None
  np.testing.assert_allclose(pooled, g["pooled"], rtol=2e-5, atol=1e-5)


def test_the_whole_objective_matches_the_reference(golden):
  g = golden("19_dmfl_reference")
  target = (1 - g["alpha_ps"]) * jax.nn.one_hot(g["labels"], 10) + g["alpha_ps"] * g["prev_probs"]
  parts = shallow_loss(g["logits"], g["feats"], g["labels"], layers.Shallow(mutual_weight=1.0), target)
  deep = losses.soft_cross_entropy(g["logits"][3], target).mean()
  np.testing.assert_allclose(deep + parts["shallow_ce"], g["ce_soft"].sum(), **VALUE)
  np.testing.assert_allclose(parts["kl"], g["kd_T3"].sum(), **VALUE)
  np.testing.assert_allclose(parts["mutual"], g["dmfl"], **VALUE)
  # The reference's hint has no mask; at its weight the difference is in the last digits of the total.
  total = 1.9 * deep + 0.9 * parts["shallow_ce"] + 0.1 * parts["kl"] + 1e-6 * g["l2"].sum() + parts["mutual"]
  np.testing.assert_allclose(total, g["total_default"], **VALUE)


def test_the_printed_direction_of_the_kl_matches_the_reference(golden):
  g = golden("19_dmfl_reference")
  kl = lambda z: shallow_loss(z, g["feats"], g["labels"], layers.Shallow(printed_kl=True))["kl"]
  np.testing.assert_allclose(kl(g["logits"]), g["kd_literal"].sum(), **VALUE)
  grad = np.asarray(jax.grad(kl)(jnp.asarray(g["logits"])))
  np.testing.assert_array_equal(grad[3], 0)
  assert np.abs(grad[:3]).max(axis=(1, 2)).min() > 1e-3


ROWS = [dict(ps_kd=a, byot=b, dmfl=c) for a in (False, True) for b in (False, True) for c in (False, True)]


@pytest.mark.parametrize("parts", ROWS, ids=lambda row: "+".join(k for k, v in row.items() if v) or "none")
def test_every_subset_of_the_parts_trains(parts):
  """What is switched off leaves no state behind; without any part it is independent training."""
  trial = toy.Trial(method("progressive_self_kd", **parts), toy.cohort("one"))
  state, history = trial.run(6)
  memory = state.method.memory
  assert ("past" in memory) == parts["ps_kd"] and ("stats" in memory) == (parts["byot"] or parts["dmfl"])
  assert {"shallow_ce" in history[0], "kl" in history[0]} == {parts["byot"]} and ("mutual" in history[0]) == parts["dmfl"]
  assert np.isfinite([h["loss"] for h in history]).all()
  if parts["byot"]:
    assert "classifier" in state.method.params["net"]["stage1"]
  if not any(parts.values()):
    alone, _ = toy.Trial(method("independent"), toy.cohort("one")).run(6)
    jax.tree.map(np.testing.assert_array_equal, toy.arrays(state.cohort), toy.arrays(alone.cohort))


def test_branches_alone_are_the_method_of_shallow_classifiers():
  """Up to the deepest cross-entropy, which the combination counts once more."""
  runs_ = [toy.Trial(method(name, **kwargs), toy.cohort("pair")).run(1)[1][0]["loss"]
           for name, kwargs in (("byot", {}), ("byot", {"deep_ce_weight": "1"}),
                                ("progressive_self_kd", dict(ps_kd=False, dmfl=False)))]
  ce = toy.Trial(method("independent"), toy.cohort("pair")).run(1)[1][0]["loss"]
  np.testing.assert_allclose(runs_[1] - runs_[0], 0.1 * ce, rtol=1e-4)
  np.testing.assert_allclose(runs_[2] - runs_[0], ce, rtol=1e-4)


def test_shallow_classifiers_are_evaluated_and_not_exported(tmp_path):
  summary = jaxdistill.train(runs.config("byot", "steps=4"), tmp_path, quiet=True)
  heads = {f"convnet.{k}.{head}" for k in (0, 1) for head in ("stage1", "heads")}
  assert set(summary["predictions"]) == heads | {"ensemble"}
  assert all(0 < summary[name]["last"]["nll"] < 10 and 0 <= summary[name]["last"]["ece"] <= 1 for name in heads)
  assert sorted(p.name for p in (tmp_path / "members").iterdir()) == ["convnet.0", "convnet.1"]
  manifest = jaxdistill.checkpoint.load(tmp_path / "members" / "convnet.0" / "last")[0]
  assert set(manifest["params"]) == {"BatchNorm_0", "BatchNorm_1", "BatchNorm_2", "Conv_0", "Conv_1", "Conv_2", "fc"}


class OneStage(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, x, train):
    pooled = x.mean((1, 2))
    return ModelOutput(nn.Dense(self.num_classes)(pooled), {"stage1": x, "pooled": pooled})


def one_stage(*, num_classes, dtype):
  return OneStage(num_classes)


def unnumbered(*, test_fraction=0.2):
  """Digits whose examples have no stable index, as a shuffled stream of records has none."""
  return jaxdistill.registry.resolve("data", "digits")._replace(stable_index=False)


@pytest.mark.parametrize("name, overrides, message", [
    ("byot", [f"cohort.convnet.model={__name__}:one_stage"], "method: convnet has 1 stage: a shallow classifier needs a stage "),
    ("progressive_self_kd", [f"cohort.convnet.model={__name__}:one_stage"], "method: convnet has 1 stage"),
    ("byot", ["method.stages=stage7"], "method: stages: 'stage7' is not a feature of convnet: it has"),
    ("ps_kd", [f"data.name={__name__}:unnumbered"], "method ps_kd keeps a table of the training examples, but .* no stable index"),
    ("ps_kd", ["method.alpha=1.5"], "method: alpha must lie in 0..1, got 1.5"),
    ("ps_kd", ["method.top_k=10"], "method: top_k must lie in 0..9, got 10")])
def test_what_does_not_suit_is_refused(name, overrides, message):
  with pytest.raises(ConfigError, match=message):
    build.build(runs.config(name, *overrides))


def test_previous_weights_need_no_index():
  build.build(runs.config("ps_kd", f"data.name={__name__}:unnumbered", "method.source=previous_weights"))
