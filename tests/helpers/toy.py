"""The smallest cohort that has everything.

Convolution, batch normalisation, a dense layer, two architectures.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import optim
from jaxdistill.core.durations import Clock
from jaxdistill.core.method import GroupSpec, Step
from jaxdistill.core.types import Batch, ModelOutput
from jaxdistill.engine import sharding
from jaxdistill.engine.cohort import spread_members
from jaxdistill.engine.resident import put_resident
from jaxdistill.engine.survey import Surveyor
from jaxdistill.engine.train_step import init_state, make_train_step
from jaxdistill.inputs.normalize import to_float
from jaxdistill.inputs.perturb.pool import make_perturb
from jaxdistill.inputs.views import make_views
from jaxdistill.nn import batch_norm, convolution
from tests.helpers import settings

SHAPE = (8, 8, 3)
CLASSES = 5
EXAMPLES = 64
BATCH = 16
STEPS_PER_EPOCH = 4
EPOCHS = 4
CLOCK = Clock(STEPS_PER_EPOCH, EPOCHS * STEPS_PER_EPOCH)
MEAN = (0.5,) * 3
STD = (0.25,) * 3


class Net(nn.Module):
  """Two strided convolutions, and a hidden dense layer unless its width is 0."""

  width: int = 4
  hidden: int = 0
  num_classes: int = CLASSES

  @nn.compact
  def __call__(self, x, train):
    features = {}
    for stage in (1, 2):
      x = convolution(self.width * stage, 3, 2)(x)
      x = nn.relu(batch_norm(train)(x))
      features[f"stage{stage}"] = x
    x = x.mean((1, 2))
    features["pooled"] = x
    if self.hidden:
      x = nn.relu(nn.Dense(self.hidden)(x))
    return ModelOutput(nn.Dense(self.num_classes)(x), features)


def optimizer(**keys):
  """The toy's optimiser, with some keys replaced."""
  common = {"learning_rate": 0.1, "clip_norm": 1.0, "schedule": "constant"}
  return optim.make_optimizer({**common, **keys}, CLOCK)


def cohort(kind="mixed", mapping="vmap", tx=None):
  """Specs of a cohort: members of one architecture, or of two."""
  tx = tx or optimizer()

  def group(name, width, size, hidden=0):
    return GroupSpec(name, Net(width, hidden), size, tx, mapping)

  kinds = {
    "same": (group("net", 4, 3),),
    "pair": (group("net", 4, 2),),
    # Two architectures whose maps have one shape, as students of FFSD must.
    "pairs": (group("net", 4, 2), group("other", 4, 2, hidden=6)),
    "four": (group("net", 4, 4),),
    "one": (group("net", 4, 1),),
    "mixed": (group("net", 4, 2), group("wide", 6, 1)),
  }
  return kinds[kind]


@functools.cache
def data():
  """Images whose class can be learned: a class's own pattern plus noise."""
  rng = np.random.default_rng(0)
  label = np.arange(EXAMPLES, dtype=np.int32) % CLASSES
  pattern = rng.uniform(0, 255, (CLASSES, *SHAPE))
  image = np.clip(pattern[label] + rng.normal(0, 40, (EXAMPLES, *SHAPE)), 0, 255)
  return image.astype(np.uint8), label


def batches(start, stop):
  """Batches of steps `start` to `stop`, always in the same order."""
  image, label = data()
  for i in range(start, stop):
    index = (np.arange(BATCH, dtype=np.int32) + i * BATCH) % EXAMPLES
    yield Batch(image[index], label[index], index, np.ones(BATCH, np.float32))


def views_of(num_members, ops=(), every=1, per_member=False):
  """Views of plain images, perturbed by `ops`."""
  return make_views(
    lambda key, image: to_float(image),
    make_perturb(ops, num_members=num_members, every=every),
    mean=MEAN,
    std=STD,
    members=[str(m) for m in range(num_members)],
    num_classes=CLASSES,
    per_member=per_member,
  )


class Trial:
  """A cohort, a method and their jitted step: compiled once, run from any state."""

  def __init__(
    self,
    method,
    specs,
    *,
    devices=1,
    member=1,
    ops=(),
    every=1,
    update_order="simultaneous",
    batch_norm_groups=1,
  ):
    self.method = method
    self.mesh = sharding.make_mesh(devices, member)
    specs = spread_members(specs, self.mesh)
    self.specs = specs
    num_members = sum(spec.size for spec in specs)

    def optimizers(owner):
      return method.tx(owner, optimizer)

    self._init = jax.jit(
      lambda: init_state(
        0,
        specs,
        method,
        optimizers,
        image_shape=SHAPE,
        num_classes=CLASSES,
        num_examples=EXAMPLES,
        clock=CLOCK,
      ),
      compiler_options=settings.QUICK_STEP,
    )
    self.step = make_train_step(
      specs,
      method,
      views_of(num_members, ops, every),
      optimizers=optimizers,
      clock=CLOCK,
      update_order=update_order,
      batch_norm_groups=batch_norm_groups,
    )
    # Small enough for a padded remainder.
    self.surveyor = Surveyor(
      specs, method, mean=MEAN, std=STD, mesh=self.mesh, batch_size=24
    )
    self.splits = {
      "train": put_resident(self.mesh, *data()),
      "holdout": put_resident(self.mesh, *(part[:20] for part in data())),
    }
    self.traces = 0
    self._jitted = jax.jit(self._traced, compiler_options=settings.QUICK_STEP)

  def _traced(self, state, batch):
    self.traces += 1
    state, metrics = self.step(state, sharding.constrain_rows(self.mesh, batch))
    return sharding.constrain_state(self.mesh, state), metrics

  def place(self, state):
    """Puts a state on the devices."""
    return jax.device_put(state, sharding.state_sharding(self.mesh, state))

  @functools.cached_property
  def initial(self):
    """The initial state."""
    return self.place(self._init())

  def run(self, steps, state=None, start=0):
    """Returns (state, metrics of every step) after steps `start` to `steps`."""
    state = self.initial if state is None else state
    rows = sharding.shard_over_rows(self.mesh)
    history = []
    for step, batch in enumerate(batches(start, steps), start):
      if step % STEPS_PER_EPOCH == 0:
        state = self.surveyor.run(state, self.splits, step // STEPS_PER_EPOCH)
      state, metrics = self._jitted(state, jax.device_put(batch, rows))
      metrics = jax.device_get(metrics)
      history.append({name: mean.value() for name, mean in metrics.items()})
    return state, history


def as_step(modules, memory, outputs, batch, views, context):
  """What a method's loss is given when members are updated at once."""
  return Step(
    modules=modules,
    memory=memory,
    outputs=outputs,
    first=outputs,
    batch=batch,
    views=views,
    context=context,
  )


def arrays(tree):
  """Host arrays of a pytree, PRNG keys as data."""

  def data_of(x):
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(x) if is_key else x

  return jax.device_get(jax.tree.map(data_of, tree))
