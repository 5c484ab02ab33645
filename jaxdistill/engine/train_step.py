"""The train step: every method, any cohort, one compiled function.

fold the key -> views -> every member's loss -> one backward pass -> per-member updates
-> the method's own.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from jaxdistill import losses, metrics
from jaxdistill.core import rng
from jaxdistill.core.durations import Clock
from jaxdistill.core.method import (
  Context,
  GroupSpec,
  Method,
  Setup,
  Step,
  Variables,
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
  Views,
)
from jaxdistill.engine.cohort import (
  InitialVariables,
  active_members,
  forward,
  init_cohort,
  member_names,
)
from jaxdistill.engine.updates import ORDERS, Problem, Solution
from jaxdistill.errors import naming


def init_state(
  seed: int,
  specs: Sequence[GroupSpec],
  method: Method,
  method_tx: optax.GradientTransformation,
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
    method_tx: optimiser of the method's own parameters.
    image_shape: (H, W, 3).
    num_classes: C.
    num_examples: N.
    clock: of the run.
    initial: weights to start from, see `init_cohort`.

  Raises:
    ConfigError: if the method does not suit the cohort or the run.
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
    params, memory = method.init(rng.stream(key, "method"), setup)
  method_state = MethodState(params=params, opt=method_tx.init(params), memory=memory)
  return TrainState(step=jnp.int32(0), key=key, cohort=cohort, method=method_state)


def make_train_step(
  specs: Sequence[GroupSpec],
  method: Method,
  views: MakeViews,
  *,
  method_tx: optax.GradientTransformation,
  clock: Clock,
  update_order: str = "simultaneous",
) -> TrainStep:
  """Returns the pure function of one training step, to be jitted by the caller.

  Args:
    specs: the groups, in member order.
    method: how they learn from each other.
    views: see `jaxdistill.inputs.views`.
    method_tx: optimiser of the method's own parameters.
    clock: of the run.
    update_order: "simultaneous", all gradients before all updates, or "sequential",
      member by member.

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
      params: dict[str, PyTree], method_params: PyTree, outputs: Outputs
    ) -> Objective:
      step = Step(
        params=method_params,
        memory=state.method.memory,
        outputs=outputs,
        batch=batch,
        views=seen,
        context=context(params, outputs),
      )
      return method.loss(step)

    problem = Problem(
      specs=specs,
      cohort=state.cohort,
      method_params=state.method.params,
      images=seen.image,
      key=rng.stream(key, "forward"),
      objective=objective,
    )
    solution = ORDERS[update_order](problem)
    new_params = {name: group.params for name, group in solution.cohort.items()}
    method_state = _update_method(
      method, method_tx, state.method, solution, context(new_params, solution.outputs)
    )
    new_state = TrainState(
      step=state.step + 1, key=state.key, cohort=solution.cohort, method=method_state
    )
    return new_state, _measure(solution, batch, seen)

  return train_step


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


def _update_method(
  method: Method,
  tx: optax.GradientTransformation,
  state: MethodState,
  solution: Solution,
  context: Context,
) -> MethodState:
  """Updates the method's own parameters and its memory.

  Parameters are held if the update would make one of them not finite.
  """
  updates, opt = tx.update(solution.method_grads, state.opt, state.params)
  params = optax.apply_updates(state.params, updates)
  finite = jnp.bool_(True)
  for x in jax.tree.leaves(params):
    finite &= jnp.isfinite(x).all()

  def keep_finite(new, old):
    return jnp.where(finite, new, old)

  memory = solution.objective.memory
  if memory is None:
    memory = state.memory
  return MethodState(
    params=jax.tree.map(keep_finite, params, state.params),
    opt=jax.tree.map(keep_finite, opt, state.opt),
    memory=method.update(memory, solution.cohort, context),
  )


def _measure(solution: Solution, batch: Batch, seen: Views) -> dict[str, Mean]:
  """Returns the step's metrics, [] or [M]: the method's and those of every method."""
  outputs = solution.outputs
  labels = outputs.repeat(batch.label)
  cross_entropy = losses.soft_cross_entropy(outputs.logits, seen.label).mean(axis=1)
  # A mean leaves out what is not finite: the metrics of a diverged member.
  unless_finite = jnp.where(outputs.alive, 0.0, jnp.nan)
  values = {
    "ce": cross_entropy + unless_finite,
    "top1": metrics.top_k(outputs.logits, labels, 1).mean(axis=1) + unless_finite,
    "loss": solution.objective.member + unless_finite,
    "perturbed": seen.is_perturbed,
    "skipped": ~solution.updated,
    **solution.objective.metrics,
  }
  means = {}
  for name, value in values.items():
    value = jnp.asarray(value, jnp.float32)
    means[name] = Mean.of(value, jnp.isfinite(value), axis=())
  return means
