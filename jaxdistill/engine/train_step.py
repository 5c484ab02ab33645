"""The train step: every method, any cohort, one compiled function.

fold the key -> views -> every member's loss -> one backward pass -> per-member updates
-> the method's own.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from jaxdistill import losses, metrics
from jaxdistill.core import rng
from jaxdistill.core.durations import Clock
from jaxdistill.core.method import (
  Context,
  GroupSpec,
  Method,
  Setup,
  Step,
  variables_of,
)
from jaxdistill.core.types import (
  Batch,
  MakeViews,
  Mean,
  MethodState,
  Objective,
  Outputs,
  PyTree,
  TrainState,
  TrainStep,
  Variables,
  Views,
)
from jaxdistill.engine.cohort import (
  InitialVariables,
  active_members,
  forward,
  init_cohort,
  member_names,
)
from jaxdistill.engine.contract import require_objective
from jaxdistill.engine.modules import (
  Optimizers,
  Update,
  start_modules,
  update_modules,
)
from jaxdistill.engine.updates import ORDERS, Problem, Solution
from jaxdistill.errors import naming
from jaxdistill.nn.norm import group_statistics


def init_state(
  seed: int,
  specs: Sequence[GroupSpec],
  method: Method,
  optimizers: Optimizers,
  *,
  image_shape: tuple[int, ...],
  num_classes: int,
  num_examples: int,
  clock: Clock,
  initial: InitialVariables | None = None,
) -> TrainState:
  """Initialises members, optimisers and the method's state.

  The same seed gives the same state.

  Args:
    seed: of everything random.
    specs: the groups, in member order.
    method: the method.
    optimizers: of the method's own modules.
    image_shape: (H, W, 3).
    num_classes: C.
    num_examples: N.
    clock: of the run.
    initial: weights to start from, see `init_cohort`.

  Raises:
    ConfigError: if the method does not suit the cohort or the run, or returns what no
      method may.
  """
  key = jax.random.key(seed)
  cohort = init_cohort(rng.stream(key, "init"), specs, image_shape, initial)

  def run(images):
    return forward(specs, variables_of(cohort), images, key, train=False)[0]

  images = jax.ShapeDtypeStruct(
    (len(member_names(specs)), 2, *image_shape), jnp.float32
  )
  setup = Setup(
    specs=tuple(specs),
    num_classes=num_classes,
    num_examples=num_examples,
    steps_per_epoch=clock.steps_per_epoch,
    total_steps=clock.total_steps,
    outputs=jax.eval_shape(run, images),
    cohort=cohort,
  )
  with naming("method"):
    variables, memory = method.init(rng.stream(key, "method"), setup)
    require_objective(method, setup, variables, memory, image_shape)
  modules = start_modules(specs, optimizers, variables)
  method_state = MethodState(modules=modules, memory=memory)
  return TrainState(step=jnp.int32(0), key=key, cohort=cohort, method=method_state)


def make_train_step(
  specs: Sequence[GroupSpec],
  method: Method,
  views: MakeViews,
  *,
  optimizers: Optimizers,
  clock: Clock,
  update_order: str = "simultaneous",
  batch_norm_groups: int = 1,
) -> TrainStep:
  """Returns the pure function of one training step, to be jitted by the caller.

  Args:
    specs: the groups, in member order.
    method: how they learn from each other.
    views: see `jaxdistill.inputs.views`.
    optimizers: of the method's own modules.
    clock: of the run.
    update_order: "simultaneous", all gradients before all updates, or "sequential",
      member by member.
    batch_norm_groups: see `group_statistics`.

  Returns:
    (TrainState, Batch) -> (TrainState, metrics): `Mean`s of shape [] or [M].
  """

  def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Mean]]:
    key = jax.random.fold_in(state.key, state.step)
    seen, clean = views(key, state.step, batch)

    def context(params: dict[str, PyTree], outputs: Outputs) -> Context:
      trained = {name: (params[name], state.cohort[name].stats) for name in params}
      return _make_context(
        specs,
        clock,
        state.step,
        key,
        variables=trained,
        active=active_members(state.cohort),
        clean=clean,
        seen=seen,
        outputs=outputs,
      )

    def objective(
      params: dict[str, PyTree],
      module_params: dict[str, PyTree],
      outputs: Outputs,
      first: Outputs,
    ) -> Objective:
      modules = {}
      for owner, group in state.method.modules.items():
        modules[owner] = (module_params[owner], group.stats)
      step = Step(
        modules=modules,
        memory=state.method.memory,
        outputs=outputs,
        first=jax.lax.stop_gradient(first),
        batch=batch,
        views=seen,
        context=context(params, outputs),
      )
      return method.loss(step)

    problem = Problem(
      specs=specs,
      cohort=state.cohort,
      modules=state.method.modules,
      images=seen.image,
      key=rng.stream(key, "forward"),
      step=state.step,
      objective=objective,
    )
    solution = ORDERS[update_order](problem)
    update = update_modules(
      specs,
      optimizers,
      state.method.modules,
      solution.module_grads,
      solution.objective.stats,
      alive=solution.outputs.alive,
      step=state.step,
    )
    memory = solution.objective.memory
    if memory is None:
      memory = state.method.memory
    new_params = {name: group.params for name, group in solution.cohort.items()}
    memory = method.update(
      memory, solution.cohort, context(new_params, solution.outputs)
    )
    new_state = TrainState(
      step=state.step + 1,
      key=state.key,
      cohort=solution.cohort,
      method=MethodState(modules=update.modules, memory=memory),
    )
    measured = _measure(specs, solution, update, batch, seen, state.step)
    return new_state, measured

  def with_statistics(
    state: TrainState, batch: Batch
  ) -> tuple[TrainState, dict[str, Mean]]:
    with group_statistics(batch_norm_groups):
      return train_step(state, batch)

  return with_statistics


def _make_context(
  specs: Sequence[GroupSpec],
  clock: Clock,
  step: jax.Array,
  key: jax.Array,
  *,
  variables: Variables,
  active: dict[str, jax.Array],
  clean: jax.Array,
  seen: Views,
  outputs: Outputs,
) -> Context:
  """Returns what a method may know of the run, and compute besides.

  Args:
    specs: the groups.
    clock: of the run.
    step: i32[] number of the step.
    key: of the step.
    variables: of the cohort being differentiated.
    active: which members may be alive, see `forward`.
    clean: f32[1 or M, B, H, W, 3] unperturbed images.
    seen: what the members see.
    outputs: their outputs on it.
  """
  forward_key = rng.stream(key, "forward")

  def evaluate(variables: Variables, images: jax.Array) -> Outputs:
    outputs, _ = forward(
      specs, variables, images, forward_key, train=False, active=active
    )
    return outputs

  def run_on_clean_images() -> Outputs:
    images = jnp.broadcast_to(clean, seen.image.shape)
    outputs, _ = forward(
      specs, variables, images, forward_key, train=True, active=active
    )
    return outputs

  def forward_clean() -> Outputs:
    anyone_perturbed = seen.perturbation.member >= 0
    return jax.lax.cond(anyone_perturbed, run_on_clean_images, lambda: outputs)

  return Context(
    step=step,
    epoch=step // clock.steps_per_epoch,
    num_epochs=clock.epochs,
    steps_per_epoch=clock.steps_per_epoch,
    key=rng.stream(key, "method"),
    forward=evaluate,
    forward_clean=forward_clean,
  )


def _measure(
  specs: Sequence[GroupSpec],
  solution: Solution,
  update: Update,
  batch: Batch,
  seen: Views,
  step: jax.Array,
) -> dict[str, Mean]:
  """Returns the step's metrics, [] or [M]: the method's and those of every method.

  Args:
    specs: the groups, in member order.
    solution: what became of the members.
    update: what became of the method's modules.
    batch: of the step.
    seen: what the members saw of it.
    step: i32[] its number.
  """
  outputs = solution.outputs
  labels = outputs.repeat(seen.larger_part(batch.label))
  cross_entropy = losses.soft_cross_entropy(outputs.logits, seen.label).mean(axis=1)
  # A mean leaves out what is not finite: the metrics of a diverged member.
  unless_finite = jnp.where(outputs.alive, 0.0, jnp.nan)
  skipped = ~solution.updated
  values = {
    "ce": cross_entropy + unless_finite,
    "top1": metrics.top_k(outputs.logits, labels, 1).mean(axis=1) + unless_finite,
    "loss": solution.objective.member + unless_finite,
    "perturbed": seen.is_perturbed,
    "gradient_norm": solution.gradient_norm + unless_finite,
  }
  if all(spec.schedule for spec in specs):
    values["learning_rate"] = _learning_rates(specs, step)
  if update.updated is not None:
    values["skipped_modules"] = ~update.updated
    skipped |= ~update.updated
  if update.shared_updated is not None:
    values["skipped_shared"] = ~update.shared_updated
  values["skipped"] = skipped
  values |= solution.objective.metrics
  means = {}
  for name, value in values.items():
    value = jnp.asarray(value, jnp.float32)
    means[name] = Mean.of(value, jnp.isfinite(value), axis=())
  return means


def _learning_rates(specs: Sequence[GroupSpec], step: jax.Array) -> jax.Array:
  """Returns every member's learning rate in a step: f32[M]."""
  rates = []
  for spec in specs:
    assert spec.schedule is not None
    rates.append(jnp.full(spec.size, spec.schedule(step), jnp.float32))
  return jnp.concatenate(rates)
