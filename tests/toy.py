"""The smallest cohort that has everything: convolution, batch norm, a dense layer, two architectures."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdistill import augment, optim, pool, sharding
from jaxdistill import step as step_lib
from jaxdistill import views as views_lib
from jaxdistill.models import layers
from jaxdistill.protocol import GroupSpec
from jaxdistill.survey import Surveyor
from jaxdistill.types import Batch, ModelOutput

SHAPE, CLASSES, EXAMPLES, BATCH, STEPS_PER_EPOCH, EPOCHS = (8, 8, 3), 5, 64, 16, 4, 4


class Net(nn.Module):
  width: int = 4
  num_classes: int = CLASSES

  @nn.compact
  def __call__(self, x, train):
    features = {}
    for stage in (1, 2):
      x = layers.conv(self.width * stage, 3, 2)(x)
      x = nn.relu(layers.batch_norm(train)(x))
      features[f"stage{stage}"] = x
    features["pooled"] = x.mean((1, 2))
    return ModelOutput(nn.Dense(self.num_classes)(features["pooled"]), features)


def optimizer(**keys):
  return optim.make_optimizer(**{**dict(learning_rate=0.1, clip_norm=1.0, schedule="constant"), **keys},
                              steps_per_epoch=STEPS_PER_EPOCH, total_steps=EPOCHS * STEPS_PER_EPOCH)


def cohort(kind="mixed", unroll=False, tx=None):
  tx = tx or optimizer()
  specs = {"same": [GroupSpec("net", Net(4), 3, tx, unroll)],
           "pair": [GroupSpec("net", Net(4), 2, tx, unroll)],
           "one": [GroupSpec("net", Net(4), 1, tx, unroll)],
           "mixed": [GroupSpec("net", Net(4), 2, tx, unroll), GroupSpec("wide", Net(6), 1, tx, unroll)]}
  return tuple(specs[kind])


def data():
  """Images whose class can be learned: a class's own pattern plus noise."""
  rng = np.random.default_rng(0)
  label = np.arange(EXAMPLES, dtype=np.int32) % CLASSES
  pattern = rng.uniform(0, 255, (CLASSES, *SHAPE))
  image = np.clip(pattern[label] + rng.normal(0, 40, (EXAMPLES, *SHAPE)), 0, 255)
  return image.astype(np.uint8), label


def batches(start, stop):
  image, label = data()
  for i in range(start, stop):
    index = (np.arange(BATCH, dtype=np.int32) + i * BATCH) % EXAMPLES
    yield Batch(image[index], label[index], index, np.ones(BATCH, np.float32))


def make_views(num_members, ops=(), every=1, per_member=False):
  return views_lib.make_views(
      lambda key, image: augment.to_float(image), pool.make_perturb(ops, num_members=num_members, every=every),
      mean=(0.5,) * 3, std=(0.25,) * 3, members=[str(m) for m in range(num_members)], num_classes=CLASSES,
      per_member=per_member)


class Trial:
  """A cohort, a method and their jitted step on a number of devices: compiled once, run from any state."""

  def __init__(self, method, specs, *, devices=1, ops=(), every=1, update="simultaneous"):
    self.method, self.specs = method, specs
    num_members = sum(spec.size for spec in specs)
    tx = method.tx(optimizer)
    self.mesh = sharding.make_mesh(devices)
    self._init = jax.jit(lambda: step_lib.init_state(0, specs, method, tx, SHAPE, CLASSES, EXAMPLES,
                                                         steps_per_epoch=STEPS_PER_EPOCH,
                                                         total_steps=EPOCHS * STEPS_PER_EPOCH))
    self.step = step_lib.make_train_step(specs, method, make_views(num_members, ops, every), method_tx=tx,
                                         steps_per_epoch=STEPS_PER_EPOCH, num_epochs=EPOCHS, update=update)
    # Small enough for a padded remainder.
    self.surveyor = Surveyor(specs, method, mean=(0.5,) * 3, std=(0.25,) * 3, mesh=self.mesh, batch_size=24)
    self.splits = {"train": sharding.put_replicated(self.mesh, data()),
                   "holdout": sharding.put_replicated(self.mesh, [part[:20] for part in data()])}
    self.traces = 0
    self._jitted = jax.jit(self._traced)

  def _traced(self, state, batch):
    self.traces += 1
    return self.step(state, sharding.constrain_rows(self.mesh, batch))

  def place(self, state):
    return jax.device_put(state, sharding.state_sharding(self.mesh, state))

  @functools.cached_property
  def initial(self):
    return self.place(self._init())

  def run(self, steps, state=None, start=0):
    """Returns (state, metrics of every step) after steps `start` to `steps`."""
    state, history = self.initial if state is None else state, []
    for step, batch in enumerate(batches(start, steps), start):
      if step % STEPS_PER_EPOCH == 0:
        state = self.surveyor.run(state, self.splits, step // STEPS_PER_EPOCH)
      state, metrics = self._jitted(state, jax.device_put(batch, sharding.shard_over_rows(self.mesh)))
      history.append({name: mean.value() for name, mean in jax.device_get(metrics).items()})
    return state, history


def arrays(tree):
  """Host arrays of a pytree, PRNG keys as data."""
  is_key = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
  return jax.device_get(jax.tree.map(lambda x: jax.random.key_data(x) if is_key(x) else x, tree))
