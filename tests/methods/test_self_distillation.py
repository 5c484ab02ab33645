"""Past predictions, shallow classifiers and mutual features.

Released code's numbers, the paper's rows, what is kept.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdistill
from jaxdistill import losses
from jaxdistill.core import registry
from jaxdistill.core.types import ModelOutput
from jaxdistill.data import Dataset
from jaxdistill.errors import ConfigError
from jaxdistill.methods import _tables
from jaxdistill.methods._branches import Branch, Head
from jaxdistill.methods._self_taught import Shallow, shallow_losses
from jaxdistill.run import build, checkpoint
from tests.helpers import runs, toy
from tests.helpers.on_logits import evaluate, method, mixing

VALUE = {"rtol": 2e-5, "atol": 1e-6}
GRAD = {"rtol": 1e-4, "atol": 1e-6}


def remembering(past, unknown=()):
  """Memory of one member with these past predictions [B, C]."""
  past = jnp.asarray(past, jnp.float32).at[jnp.array(unknown, int)].set(0)
  size, num_classes = past.shape
  table = _tables.create(size, num_classes, (1,))
  table = _tables.write(table, jnp.arange(size), past[:, None], jnp.ones(size))
  return {"past": table}


def ps_kd_loss(g, *, logits=None, unknown=(), epoch, num_epochs, **kwargs):
  """The loss of one member that remembers the golden file's predictions."""
  objective = evaluate(
    method("ps_kd", **kwargs),
    jnp.asarray(g["logits"] if logits is None else logits)[None],
    g["labels"],
    memory=remembering(g["prev_probs"], unknown),
    epoch=epoch,
    num_epochs=num_epochs,
  )
  return objective.member[0]


def test_past_predictions_match_the_released_code(golden):
  g = golden("12_pskd")

  def loss(z):
    return ps_kd_loss(g, logits=z, epoch=149, num_epochs=300)

  value, grad = jax.value_and_grad(loss)(g["logits"])
  np.testing.assert_allclose(value, g["loss_out"], **VALUE)
  np.testing.assert_allclose(grad, g["grad"], **GRAD)


def test_an_example_without_a_past_keeps_its_label(golden):
  g = golden("12_pskd")

  def loss(unknown):
    return ps_kd_loss(g, unknown=unknown, epoch=299, num_epochs=300)

  ce = losses.cross_entropy(g["logits"], g["labels"])
  np.testing.assert_allclose(loss(range(8)), ce.mean(), rtol=1e-6)
  target = 0.2 * jax.nn.one_hot(g["labels"], 10) + 0.8 * g["prev_probs"]
  softened = losses.soft_cross_entropy(g["logits"], target)
  mixed = jnp.where(jnp.arange(8) == 3, ce, softened)
  np.testing.assert_allclose(loss([3]), mixed.mean(), rtol=1e-6)


def test_the_weight_of_the_past_rises_or_is_constant(golden):
  g = golden("12_pskd")
  on_labels = losses.cross_entropy(g["logits"], g["labels"]).mean()
  on_past = losses.soft_cross_entropy(g["logits"], g["prev_probs"]).mean()

  def weight(epoch, **kwargs):
    """Solves L = (1 - a) CE + a H for a."""
    loss = ps_kd_loss(g, epoch=epoch, num_epochs=10, **kwargs)
    return float((loss - on_labels) / (on_past - on_labels))

  rising = [weight(epoch) for epoch in (0, 4, 9)]
  assert rising == pytest.approx([0.08, 0.4, 0.8], rel=1e-3)
  assert weight(0, schedule="constant") == pytest.approx(0.8, rel=1e-3)


@pytest.mark.parametrize("labels", [True, False])
def test_what_is_remembered_is_the_prediction_before_the_update(golden, labels):
  """Not for a member that saw the example mixed with another, nor a diverged one."""
  g = golden("12_pskd")
  logits = jnp.stack([g["logits"]] * 3).at[2, 0, 0].set(jnp.nan)
  objective = evaluate(
    method("ps_kd"),
    # A sequential update shows the loss what follows from the updates before.
    2 * logits,
    g["labels"],
    first=jnp.nan_to_num(logits),
    memory={"past": _tables.create(8, 10, (3,))},
    perturbation=mixing(1, 0.7, labels=labels),
  )
  rows = np.asarray(_tables.read(objective.memory["past"], jnp.arange(8), 10))
  np.testing.assert_allclose(rows[:, 0], jax.nn.softmax(g["logits"]), rtol=1e-5)
  np.testing.assert_array_equal(rows[:, 1:], 0)


@pytest.mark.slow
def test_a_sequential_update_remembers_the_predictions_before_it():
  tables = []
  for order in ("simultaneous", "sequential"):
    trial = toy.Trial(method("ps_kd"), toy.cohort("pair"), update_order=order)
    state, _ = trial.run(1)
    tables.append(toy.arrays(state.method.memory["past"]["probability"].rows))
  assert tables[0].any()
  np.testing.assert_allclose(*tables, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("by", ["perturbation", "mixture"])
@pytest.mark.parametrize("labels", [True, False])
def test_the_past_of_mixed_images_is_mixed_as_they_are(golden, labels, by):
  """Where an example or its partner has no past, the labels stay as they are."""
  g = golden("12_pskd")
  one_hot = jax.nn.one_hot(g["labels"], 10)
  target = one_hot
  if labels:
    target = 0.7 * one_hot + 0.3 * one_hot[::-1]

  objective = evaluate(
    method("ps_kd", schedule="constant"),
    jnp.asarray(g["logits"])[None],
    g["labels"],
    target=target[None],
    memory=remembering(g["prev_probs"], unknown=[3]),
    **{by: mixing(0, 0.7, labels=labels)},
  )
  past = 0.7 * g["prev_probs"] + 0.3 * g["prev_probs"][::-1]
  softened = 0.2 * target + 0.8 * past
  # Image 3 is the partner of image 4.
  has_past = ~np.isin(np.arange(8), [3, 4])
  expected = jnp.where(has_past[:, None], softened, target)
  loss = losses.soft_cross_entropy(g["logits"], expected).mean()
  np.testing.assert_allclose(objective.member, [loss], rtol=1e-5)
  # Predictions for mixtures are not remembered.
  rows = np.asarray(_tables.read(objective.memory["past"], jnp.arange(8), 10))
  kept = np.where(np.arange(8)[:, None] == 3, 0, g["prev_probs"])
  np.testing.assert_allclose(rows[:, 0], kept, rtol=1e-6)


@pytest.mark.slow
def test_previous_weights_are_those_of_the_end_of_the_last_epoch():
  trial = toy.Trial(method("ps_kd", source="previous_weights"), toy.cohort("mixed"))
  state, history = trial.run(toy.STEPS_PER_EPOCH)
  for metrics in history:
    np.testing.assert_allclose(metrics["loss"], metrics["ce"], rtol=1e-6)
  end = toy.arrays(state.cohort)
  state, history = trial.run(
    toy.STEPS_PER_EPOCH + 2, state=state, start=toy.STEPS_PER_EPOCH
  )
  for name, (params, stats) in toy.arrays(state.method.memory["past"]).items():
    jax.tree.map(np.testing.assert_array_equal, params, end[name].params)
    jax.tree.map(np.testing.assert_array_equal, stats, end[name].stats)
  assert (np.abs(history[-1]["loss"] - history[-1]["ce"]) > 1e-3).all()


def parts_of(logits, feats, labels, shallow, target=None):
  """The shallow parts of one member.

  Args:
    logits: [4, B, C] of its branches, the last one of the member itself.
    feats: [4, B, D] pooled features of the same.
    labels: i32[B].
    shallow: weights.
    target: [B, C], the labels by default.
  """
  if target is None:
    target = jax.nn.one_hot(labels, logits.shape[-1])
  output = ModelOutput(logits[3:], {"pooled": feats[3:]})
  heads = {}
  for i in range(3):
    heads[f"stage{i}"] = Head(logits=logits[i : i + 1], pooled=feats[i : i + 1])
  parts = shallow_losses(shallow, heads, output, target[None])
  return {name: value[0] for name, value in parts.items()}


def test_shallow_classifiers_match_the_released_code(golden):
  """Its cross-entropy with soft targets is our KL plus the teacher's entropy.

  No gradient sees that.
  """
  g = golden("06_byot")

  def total(logits, feats):
    parts = parts_of(logits, feats, g["labels"], Shallow())
    deep = losses.cross_entropy(logits[3], g["labels"]).mean()
    labels = 0.9 * (deep + parts["shallow_ce"])
    return labels + 0.1 * parts["kl"] + 1e-6 * parts["hint"]

  p = jax.nn.softmax(g["logits"][3] / 3)
  entropy = 3 * 9 * -(p * jnp.log(p)).sum(-1).mean()
  value, grads = jax.value_and_grad(total, argnums=(0, 1))(g["logits"], g["feats"])
  np.testing.assert_allclose(value + 0.1 * entropy, g["total"], **VALUE)
  np.testing.assert_allclose(grads[0], g["grad_logits"], **GRAD)
  np.testing.assert_allclose(grads[1], g["grad_feats"], rtol=1e-4, atol=1e-9)
  hints = [losses.byot_hint(feats, g["feats"][3]).sum() for feats in g["feats"][:3]]
  np.testing.assert_allclose(hints, g["feat"], **VALUE)


def test_branch_matches_the_released_code(golden):
  g = golden("06b_byot_bottleneck")
  params = {}
  # Weight and bias of a convolution, then of its normalisation, three times.
  for i in range(3):
    weight, bias, scale, shift = (g[f"p{4 * i + k}"] for k in range(4))
    kernel = jnp.transpose(weight, (2, 3, 1, 0))
    params[f"Conv_{i}"] = {"kernel": kernel, "bias": bias}
    params[f"BatchNorm_{i}"] = {"scale": scale, "bias": shift}
  module = Branch(features=16, kernel=4, num_classes=0)
  x = jnp.transpose(g["x"], (0, 2, 3, 1))
  stats = module.init(jax.random.key(0), x, train=False)["batch_stats"]
  variables = {"params": params, "batch_stats": stats}
  head, _ = module.apply(variables, x, train=True, mutable=["batch_stats"])
  assert head.logits is None
  np.testing.assert_allclose(head.pooled, g["pooled"], rtol=2e-5, atol=1e-5)


def test_the_whole_objective_matches_the_reference(golden):
  g = golden("19_dmfl_reference")
  alpha = g["alpha_ps"]
  target = (1 - alpha) * jax.nn.one_hot(g["labels"], 10) + alpha * g["prev_probs"]
  shallow = Shallow(mutual_weight=1.0)
  parts = parts_of(g["logits"], g["feats"], g["labels"], shallow, target)
  deep = losses.soft_cross_entropy(g["logits"][3], target).mean()
  np.testing.assert_allclose(deep + parts["shallow_ce"], g["ce_soft"].sum(), **VALUE)
  np.testing.assert_allclose(parts["kl"], g["kd_T3"].sum(), **VALUE)
  np.testing.assert_allclose(parts["mutual"], g["dmfl"], **VALUE)
  # The reference's hint has no mask; at its weight the difference is in the last digits
  # of the total.
  hint = 1e-6 * g["l2"].sum()
  total = 1.9 * deep + 0.9 * parts["shallow_ce"] + 0.1 * parts["kl"] + hint
  np.testing.assert_allclose(total + parts["mutual"], g["total_default"], **VALUE)


def test_the_printed_direction_of_the_kl_matches_the_reference(golden):
  g = golden("19_dmfl_reference")

  def kl(z):
    return parts_of(z, g["feats"], g["labels"], Shallow(printed_kl=True))["kl"]

  np.testing.assert_allclose(kl(g["logits"]), g["kd_literal"].sum(), **VALUE)
  grad = np.asarray(jax.grad(kl)(jnp.asarray(g["logits"])))
  np.testing.assert_array_equal(grad[3], 0)
  assert np.abs(grad[:3]).max(axis=(1, 2)).min() > 1e-3


# The eight rows of the paper's tables. All parts and none of them stay in the quick
# part of the suite.
ROWS = []
for ps_kd in (False, True):
  for byot in (False, True):
    for dmfl in (False, True):
      quick = ps_kd == byot == dmfl
      ROWS.append(
        pytest.param(
          {"ps_kd": ps_kd, "byot": byot, "dmfl": dmfl},
          marks=() if quick else pytest.mark.slow,
        )
      )


@pytest.mark.parametrize("parts", ROWS, ids=str)
def test_every_subset_of_the_parts_trains(parts):
  """What is switched off leaves no state behind; without any part it is independent."""
  trial = toy.Trial(method("progressive_self_kd", **parts), toy.cohort("one"))
  state, history = trial.run(6)
  memory = state.method.memory
  assert ("past" in memory) == parts["ps_kd"]
  modules = state.method.modules
  assert bool(modules) == (parts["byot"] or parts["dmfl"])
  assert ("shallow_ce" in history[0]) == parts["byot"]
  assert ("kl" in history[0]) == parts["byot"]
  assert ("mutual" in history[0]) == parts["dmfl"]
  assert np.isfinite([metrics["loss"] for metrics in history]).all()
  if parts["byot"]:
    assert "classifier" in modules["net"].params["stage1"]
  if not any(parts.values()):
    alone, _ = toy.Trial(method("independent"), toy.cohort("one")).run(6)
    jax.tree.map(
      np.testing.assert_array_equal, toy.arrays(state.cohort), toy.arrays(alone.cohort)
    )


@pytest.mark.slow
def test_branches_alone_are_the_method_of_shallow_classifiers():
  """Up to the deepest cross-entropy, which the combination counts once more."""

  def first_loss(name, **kwargs):
    _, history = toy.Trial(method(name, **kwargs), toy.cohort("pair")).run(1)
    return history[0]["loss"]

  byot = first_loss("byot")
  whole_ce = first_loss("byot", deep_ce_weight="1")
  combined = first_loss("progressive_self_kd", ps_kd=False, dmfl=False)
  ce = first_loss("independent")
  np.testing.assert_allclose(whole_ce - byot, 0.1 * ce, rtol=1e-4)
  np.testing.assert_allclose(combined - byot, ce, rtol=1e-4)


@pytest.mark.slow
def test_shallow_classifiers_are_evaluated_and_not_exported(tmp_path):
  summary = jaxdistill.train(runs.config("byot", "steps=4"), tmp_path, quiet=True)
  heads = {f"convnet.{k}.{head}" for k in (0, 1) for head in ("stage1", "heads")}
  assert set(summary["predictions"]) == heads | {"ensemble"}
  for name in heads:
    last = summary[name]["last"]
    assert 0 < last["nll"] < 10
    assert 0 <= last["ece"] <= 1
  members = tmp_path / "members"
  assert sorted(p.name for p in members.iterdir()) == ["convnet.0", "convnet.1"]
  saved, _ = checkpoint.load(members / "convnet.0" / "last")
  layers = {"BatchNorm_0", "BatchNorm_1", "BatchNorm_2", "Conv_0", "Conv_1", "Conv_2"}
  assert set(saved["params"]) == layers | {"fc"}


class OneStage(nn.Module):
  """A network without a stage before the last."""

  num_classes: int

  @nn.compact
  def __call__(self, x, train):
    pooled = x.mean((1, 2))
    logits = nn.Dense(self.num_classes)(pooled)
    return ModelOutput(logits, {"stage1": x, "pooled": pooled})


def one_stage(*, num_classes, dtype) -> nn.Module:
  return OneStage(num_classes)


def unnumbered(*, test_fraction=0.2) -> Dataset:
  """Digits without a stable index, as a shuffled stream of records has none."""
  digits = registry.resolve("data", "digits")
  return digits._replace(stable_index=False)


@pytest.mark.parametrize(
  "name, overrides, message",
  [
    (
      "byot",
      [f"cohort.convnet.model={__name__}:one_stage"],
      "method: convnet has 1 stage: a shallow classifier needs a stage ",
    ),
    (
      "progressive_self_kd",
      [f"cohort.convnet.model={__name__}:one_stage"],
      "method: convnet has 1 stage",
    ),
    (
      "byot",
      ["method.stages=stage7"],
      "method: stages: 'stage7' is not a feature of convnet: it has",
    ),
    (
      "ps_kd",
      [f"data.name={__name__}:unnumbered"],
      "method ps_kd keeps a table of the training examples, but .* no stable index",
    ),
    ("ps_kd", ["method.alpha=1.5"], "method: alpha must lie in 0..1, got 1.5"),
    ("ps_kd", ["method.top_k=10"], "method: top_k must lie in 0..9, got 10"),
  ],
)
def test_what_does_not_suit_is_refused(name, overrides, message):
  with pytest.raises(ConfigError, match=message):
    build.build(runs.config(name, *overrides))


def test_previous_weights_need_no_index():
  build.build(
    runs.config(
      "ps_kd", f"data.name={__name__}:unnumbered", "method.source=previous_weights"
    )
  )
