"""What a method may return, checked on shapes before anything is compiled."""

import jax
import jax.numpy as jnp

from jaxdistill.core.method import Context, Method, Setup, Step
from jaxdistill.core.types import Batch, Objective, Outputs, PyTree, Variables
from jaxdistill.errors import require
from jaxdistill.inputs.normalize import to_float
from jaxdistill.inputs.perturb.pool import make_perturb
from jaxdistill.inputs.views import make_views

# As in `Setup.outputs`.
_BATCH = 2


def require_objective(
  method: Method,
  setup: Setup,
  modules: Variables,
  memory: PyTree,
  image_shape: tuple[int, ...],
) -> None:
  """Checks what a method's loss returns.

  A loss of another shape would be summed over and train without a word.

  Args:
    method: its loss is traced, on a batch of two and without the networks.
    setup: of the run.
    modules: owner -> (params, stats), from its `init`.
    memory: from its `init`.
    image_shape: (H, W, 3).

  Raises:
    ConfigError: for a loss that is not one number for every member, a metric that is
      neither that nor one number, or modules or a memory that change their shape.
  """

  def loss(key: jax.Array, outputs: Outputs) -> Objective:
    step = _stand_in(key, outputs, setup, image_shape)
    return method.loss(step._replace(modules=modules, memory=memory))

  objective = jax.eval_shape(loss, jax.random.key(0), setup.outputs)
  each = setup.outputs.alive.shape
  _require_shape("Objective.member", objective.member, (each,))
  _require_shape("Objective.shared", objective.shared, ((),))
  for name, value in objective.metrics.items():
    _require_shape(f"the metric {name!r}", value, ((), each))
  for owner, stats in objective.stats.items():
    require(owner in modules, f"Objective.stats: {owner!r} owns no modules")
    _require_same(f"Objective.stats of {owner}", stats, modules[owner][1])
  if objective.memory is not None:
    _require_same("Objective.memory", objective.memory, memory)


def _stand_in(
  key: jax.Array, outputs: Outputs, setup: Setup, image_shape: tuple[int, ...]
) -> Step:
  """Returns a step with arrays of the right shapes in it, but for the method's own."""
  num_members = len(outputs.members)
  views = make_views(
    lambda key, image: to_float(image),
    make_perturb((), num_members=num_members),
    mean=(0.0,) * 3,
    std=(1.0,) * 3,
    members=outputs.members,
    num_classes=setup.num_classes,
  )
  batch = Batch(
    image=jnp.zeros((_BATCH, *image_shape), jnp.uint8),
    label=jnp.zeros(_BATCH, jnp.int32),
    index=jnp.zeros(_BATCH, jnp.int32),
    mask=jnp.ones(_BATCH),
  )
  seen, _ = views(key, jnp.int32(0), batch)
  context = Context(
    step=jnp.int32(0),
    epoch=jnp.int32(0),
    num_epochs=-(-setup.total_steps // setup.steps_per_epoch),
    steps_per_epoch=setup.steps_per_epoch,
    key=key,
    forward=lambda variables, image: outputs,
    forward_clean=lambda: outputs,
  )
  return Step(
    modules={},
    memory=None,
    outputs=outputs,
    first=outputs,
    batch=batch,
    views=seen,
    context=context,
  )


def _require_shape(
  what: str, value: jax.Array | float, shapes: tuple[tuple[int, ...], ...]
) -> None:
  shape = jnp.shape(value)
  expected = " or ".join(str(list(known)) for known in shapes)
  require(
    shape in shapes,
    f"{what} has the shape {list(shape)}, it must be {expected}: one number for every "
    "member",
  )


def _require_same(what: str, new: PyTree, old: PyTree) -> None:
  """Raises ConfigError unless two trees have equal structures, shapes and dtypes."""

  def typed(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x)), tree)

  require(
    typed(new) == typed(old),
    f"{what} must keep the structure, shapes and dtypes it has from the method's init",
  )
