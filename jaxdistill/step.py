"""The train step: every method, any cohort, one compiled function.

fold the key -> views -> every member's loss -> one backward pass -> per-member updates -> the method's own.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdistill import cohort as cohort_lib
from jaxdistill import losses, metrics, rng, sharding
from jaxdistill.errors import naming
from jaxdistill.protocol import Context, GroupSpec, Method, Setup
from jaxdistill.types import Batch, Mean, MethodState, Objective, Outputs, PyTree, TrainState, Views


def init_state(seed: int, specs: Sequence[GroupSpec], method: Method, method_tx: optax.GradientTransformation,
               image_shape: tuple[int, int, int], num_classes: int, num_examples: int, given: dict[str, dict] | None = None,
               *, steps_per_epoch: int, total_steps: int) -> TrainState:
  """Initialises members, optimisers and the method's state; the same seed gives the same state.

  `given` holds weights to start from, see `cohort.init`.

  Raises:
    ConfigError: if the method does not suit the cohort or the run.
  """
  key = jax.random.key(seed)
  cohort = cohort_lib.init(rng.stream(key, "init"), specs, image_shape, given)
  names = cohort_lib.member_names(specs)
  params, stats = ({name: getattr(group, part) for name, group in cohort.items()} for part in ("params", "stats"))
  outputs = jax.eval_shape(
      lambda images: cohort_lib.forward(specs, params, stats, images, key, train=False)[0],
      jax.ShapeDtypeStruct((len(names), 2, *image_shape), jnp.float32))
  setup = Setup(tuple(specs), num_classes, num_examples, steps_per_epoch, total_steps, outputs, cohort)
  with naming("method"):
    params, memory = method.init(rng.stream(key, "method"), setup)
  return TrainState(jnp.int32(0), key, cohort, MethodState(params, method_tx.init(params), memory))


class _Step(NamedTuple):
  """What is fixed during one step, and the two functions that depend on the parameters."""

  specs: Sequence[GroupSpec]
  method: Method
  state: TrainState
  batch: Batch
  views: Views
  clean: jax.Array
  key: jax.Array
  steps_per_epoch: int
  num_epochs: int

  @property
  def forward_key(self) -> jax.Array:
    return rng.stream(self.key, "forward")

  @property
  def stats(self) -> dict[str, PyTree]:
    return {name: group.stats for name, group in self.state.cohort.items()}

  def forward(self, params: dict[str, PyTree], images: jax.Array) -> tuple[Outputs, dict[str, PyTree]]:
    return cohort_lib.forward(self.specs, params, self.stats, images, self.forward_key, train=True)

  def context(self, params: dict[str, PyTree], outputs: Outputs) -> Context:
    num_members = outputs.logits.shape[0]
    def evaluate(variables, images):
      params, stats = ({name: pair[i] for name, pair in variables.items()} for i in (0, 1))
      return cohort_lib.forward(self.specs, params, stats, images, self.forward_key, train=False)[0]
    def forward_clean():
      images = jnp.broadcast_to(self.clean, (num_members, *self.clean.shape[1:]))
      return jax.lax.cond(self.views.perturbation.member >= 0,
                          lambda: self.forward(params, images)[0], lambda: outputs)
    step = self.state.step
    return Context(step, step // self.steps_per_epoch, self.num_epochs, self.steps_per_epoch,
                   rng.stream(self.key, "method"), evaluate, forward_clean)

  def objective(self, params: dict[str, PyTree], method_params: PyTree, outputs: Outputs) -> Objective:
    return self.method.loss(method_params, self.state.method.memory, outputs, self.batch, self.views,
                            self.context(params, outputs))


def _simultaneous(step: _Step):
  """One backward pass for all members: their parameters are disjoint and targets are detached."""
  def total(params, method_params):
    outputs, stats = step.forward(params, step.views.image)
    objective = step.objective(params, method_params, outputs)
    return objective.member.sum() + objective.shared, (objective, outputs, stats)
  params = {name: group.params for name, group in step.state.cohort.items()}
  (grads, method_grads), (objective, outputs, stats) = jax.grad(total, argnums=(0, 1), has_aux=True)(
      params, step.state.method.params)
  cohort, updated = cohort_lib.update(step.specs, step.state.cohort, grads, stats)
  return cohort, method_grads, objective, outputs, updated


def _sequential(step: _Step):
  """Member by member: update it, run it again, and let the next one learn from the new output.

  Reference:
    Y. Zhang, T. Xiang, T. Hospedales, H. Lu: Deep Mutual Learning. CVPR 2018, algorithm 1.
  """
  method_params = step.state.method.params
  params = {name: group.params for name, group in step.state.cohort.items()}
  outputs, stats = step.forward(params, step.views.image)
  first = outputs
  cohort, updated, turns, method_grads = {}, [], [], jax.tree.map(jnp.zeros_like, method_params)
  for spec in step.specs:
    group = step.state.cohort[spec.name]
    for k in range(spec.size):
      position, member = len(turns), cohort_lib.take_member(group, k)
      rerun = lambda p: cohort_lib.forward_member(spec, k, position, outputs, p, member.stats, step.views.image,
                                                  step.forward_key)
      def own_loss(p, q):
        new_params = {**params, spec.name: cohort_lib.set_member(params[spec.name], k, p)}
        objective = step.objective(new_params, q, rerun(p))
        return objective.member[position], objective
      (grads, extra), objective = jax.grad(own_loss, argnums=(0, 1), has_aux=True)(member.params, method_params)
      method_grads = jax.tree.map(jnp.add, method_grads, extra)
      new, ok = cohort_lib.update([spec._replace(size=1)], {spec.name: member}, {spec.name: grads},
                                  {spec.name: cohort_lib.take_member(stats[spec.name], k)})
      group = cohort_lib.set_member(group, k, new[spec.name])
      params = {**params, spec.name: group.params}
      outputs = jax.lax.stop_gradient(rerun(new[spec.name].params))
      turns.append(objective)
      updated.append(ok)
    cohort[spec.name] = group
  extra = jax.grad(lambda q: step.objective(params, q, outputs).shared)(method_params)
  own_turn = lambda *values: jnp.stack([v[i] for i, v in enumerate(values)]) if values[0].ndim else values[-1]
  objective = Objective(own_turn(*(o.member for o in turns)), turns[-1].shared,
                        jax.tree.map(own_turn, *(o.metrics for o in turns)), turns[-1].memory)
  return cohort, jax.tree.map(jnp.add, method_grads, extra), objective, first, jnp.concatenate(updated)


ORDERS = {"simultaneous": _simultaneous, "sequential": _sequential}


def _measure(step: _Step, objective: Objective, outputs: Outputs, updated: jax.Array) -> dict[str, Mean]:
  """Collects the step's metrics: the method's own and those of every method, [] or [M]."""
  members = jnp.arange(outputs.alive.size)
  labels = jnp.broadcast_to(step.batch.label[None], outputs.logits.shape[:2])
  dead = jnp.where(outputs.alive, 0.0, jnp.nan)
  values = {
      "ce": losses.soft_cross_entropy(outputs.logits, step.views.label).mean(axis=1) + dead,
      "top1": metrics.top_k(outputs.logits, labels, 1).mean(axis=1) + dead,
      "loss": objective.member + dead,
      "perturbed": members == step.views.perturbation.member,
      "skipped": ~updated,
      **objective.metrics,
  }
  of = lambda v: Mean.of(v, jnp.isfinite(v), axis=())
  return {name: of(jnp.asarray(value, jnp.float32)) for name, value in values.items()}


def make_train_step(specs: Sequence[GroupSpec], method: Method, views: Callable, *,
                    method_tx: optax.GradientTransformation, steps_per_epoch: int, num_epochs: int,
                    update: str = "simultaneous") -> Callable[[TrainState, Batch], tuple[TrainState, dict]]:
  """Returns the pure function of one training step, to be jitted by the caller.

  Args:
    specs: the groups, in member order.
    method: how they learn from each other.
    views: (key, step, batch) -> (Views, clean images [1 or M, B, H, W, 3]); see `views.make_views`.
    method_tx: optimiser of the method's own parameters.
    steps_per_epoch: steps of an epoch.
    num_epochs: epochs of the run.
    update: "simultaneous", all gradients before all updates, or "sequential", member by member.

  Returns:
    (TrainState, Batch) -> (TrainState, metrics): `Mean`s of shape [] or [M].
  """
  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Mean]]:
    key = jax.random.fold_in(state.key, state.step)
    batch_views, clean = views(key, state.step, batch)
    step = _Step(specs, method, state, batch, batch_views, clean, key, steps_per_epoch, num_epochs)
    cohort, method_grads, objective, outputs, updated = ORDERS[update](step)
    updates, opt = method_tx.update(method_grads, state.method.opt, state.method.params)
    new_method = (optax.apply_updates(state.method.params, updates), opt)
    finite = jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(new_method[0])] or [True]).all()
    params, opt = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new_method,
                               (state.method.params, state.method.opt))
    context = step.context({name: group.params for name, group in cohort.items()}, outputs)
    memory = method.update(objective.memory, cohort, context)
    new_state = TrainState(state.step + 1, state.key, cohort, MethodState(params, opt, memory))
    return new_state, _measure(step, objective, outputs, updated)
  return train_step


def make_resident_step(train_step: Callable, mesh: Any, *, batch_size: int, steps_per_epoch: int,
                       steps_per_dispatch: int) -> Callable:
  """Returns the jitted function that trains several steps on a data set that lives on the devices.

  Args:
    train_step: from `make_train_step`.
    mesh: device mesh.
    batch_size: B, a multiple of the number of devices.
    steps_per_epoch: steps of an epoch; a dispatch must not cross its end.
    steps_per_dispatch: steps run by one call. One step is run without a loop around it, because XLA's CPU
      backend runs convolutions inside loops on a slow path.

  Returns:
    (state, image uint8[N, H, W, 3], label i32[N], order i32[N]) -> (state, summed metrics). The state is
    donated. `order` is the epoch's permutation; the position in it follows from `state.step`.
  """
  def one(state, image, label, order):
    start = (state.step % steps_per_epoch) * batch_size
    index = sharding.constrain_rows(mesh, jax.lax.dynamic_slice(order, (start,), (batch_size,)))
    batch = Batch(image[index], label[index], index, jnp.ones((batch_size,)))
    return train_step(state, sharding.constrain_rows(mesh, batch))

  def run(state, image, label, order):
    if steps_per_dispatch == 1:
      return one(state, image, label, order)
    state, stacked = jax.lax.scan(lambda s, _: one(s, image, label, order), state, length=steps_per_dispatch)
    return state, jax.tree.map(lambda x: x.sum(axis=0), stacked)

  return jax.jit(run, donate_argnums=0)


def epoch_order(key: jax.Array, epoch: int, num_examples: int) -> jax.Array:
  """Returns the order in which an epoch visits the training examples: a pure function of seed and epoch."""
  return jax.random.permutation(jax.random.fold_in(rng.stream(key, "order"), epoch), num_examples)
