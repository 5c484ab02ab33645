"""Recipes that several config files share."""

from collections.abc import Collection

from jaxdistill.errors import require_choice
from jaxdistill.run.config import ConfigDict, default, optimizer

# A mirrored digit is another digit, or none; and these have no colour.
DIGITS_POOL = ("mixup", "cutmix", "noise", "elastic", "affine", "resized_crop")


def require_row(argument: str, rows: Collection[str]) -> None:
  """Refuses an argument of a config file that names none of its rows.

  Args:
    argument: what stands behind the colon of `--config=FILE.py:ARGUMENT`.
    rows: the arguments that the file knows.

  Raises:
    ConfigError: naming them.
  """
  require_choice(argument=(argument, tuple(rows)))


def cifar(dataset: str, method: str, **method_kwargs) -> ConfigDict:
  """Returns the CIFAR recipe of Competitive Distillation, still without a cohort.

  SGD with Nesterov momentum 0.9, learning rate 0.1, batch 128, pad-and-crop and flip
  are the paper's. Epochs, decay points and weight decay are not stated there; 200
  epochs, a tenth every 60 and 5e-4 are those of Deep Mutual Learning, whose baselines
  its independent networks match.

  Args:
    dataset: "cifar10" or "cifar100".
    method: registry name.
    **method_kwargs: keywords that differ from the method's defaults.
  """
  config = default(f"cifar.{dataset}", method, **method_kwargs)
  config.optimizer = optimizer(
    "sgd",
    "step",
    learning_rate=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    milestones=("30%", "60%", "90%"),
    decay=0.1,
  )
  return config


def imagenet(method: str, **method_kwargs) -> ConfigDict:
  """Returns the recipe of ImageNet without its learning rate, and without a cohort.

  300 epochs, batch 128, images of 224 pixels as arrays.

  Args:
    method: registry name.
    **method_kwargs: keywords that differ from the method's defaults.
  """
  config = default("npz", method, **method_kwargs)
  config.epochs = 300.0
  config.augment.padding = 28
  config.data.num_classes = 1000
  return config


def step_decay(
  config: ConfigDict,
  *,
  epochs: float,
  weight_decay: float,
  milestones: tuple[str, ...] = ("50%", "75%"),
  nesterov: bool = True,
) -> ConfigDict:
  """Changes a recipe to SGD whose learning rate drops to a tenth at milestones.

  Args:
    config: the recipe, with SGD and the schedule "step"; it is changed and returned.
    epochs: length of the run.
    weight_decay: of all parameters.
    milestones: durations.
    nesterov: whether the momentum is Nesterov's.
  """
  config.epochs = epochs
  config.optimizer.update(
    {"weight_decay": weight_decay, "milestones": milestones, "nesterov": nesterov}
  )
  return config


def transformer(config: ConfigDict, *, no_decay: tuple[str, ...] = ()) -> ConfigDict:
  """Changes a recipe to the usual one of vision transformers.

  That of Touvron et al., ICML 2021, table 9:
  AdamW with decay 0.05, not of biases, normalisations, tokens and positions; 5e-4 for
  512 images, in proportion to the batch; 5 epochs of warm-up, a cosine; smoothed
  labels; weights averaged. Clipping is ours.

  Args:
    config: the recipe; it is changed and returned.
    no_decay: parameters of the networks, besides these, that do not decay.
  """
  config.label_smoothing = 0.1
  config.ema_decay = 0.9999
  config.optimizer = optimizer(
    "adamw",
    "cosine",
    learning_rate=5e-4 * config.batch_size / 512,
    weight_decay=0.05,
    warmup="5 epochs",
    clip_norm=1.0,
    no_decay=("bias", "scale", "cls_token", "pos_embed", *no_decay),
  )
  return config


def digits(method: str, **method_kwargs) -> ConfigDict:
  """Returns the recipe for scikit-learn's 8x8 digits: about a minute on two CPU cores.

  Args:
    method: registry name.
    **method_kwargs: keywords that differ from the method's defaults.
  """
  config = default("digits", method, **method_kwargs)
  config.batch_size = 64
  config.epochs = 30.0
  config.log_every = "1 epoch"
  config.eval_every = "5 epochs"
  config.checkpoint_every = "5 epochs"
  config.augment.padding = 1
  config.augment.flip = False
  config.optimizer = optimizer(
    "sgd",
    "cosine",
    learning_rate=0.05,
    weight_decay=5e-4,
    warmup="1 epoch",
  )
  return config
