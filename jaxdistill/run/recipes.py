"""Recipes that several config files share."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from jaxdistill.errors import require_choice
from jaxdistill.inputs.augment import RECIPES
from jaxdistill.run.config import (
  ConfigDict,
  augmentation,
  default,
  group,
  optimizer,
  perturbation,
)

# A mirrored digit is another digit, or none; and these have no colour.
DIGITS_POOL = ("mixup", "cutmix", "noise", "elastic", "affine", "resized_crop")

CIFAR_COHORTS = {
  "resnet32": {"resnet32": {"model": "resnet_cifar.resnet32", "members": 2}},
  "3_resnet32": {"resnet32": {"model": "resnet_cifar.resnet32", "members": 3}},
  "resnet56_mobilenet": {
    "mobilenet": {"model": "mobilenet.v2", "stem": "cifar"},
    "resnet56": {"model": "resnet_cifar.resnet56"},
  },
}
"""Cohorts of `compared`: name -> group -> its keys."""

MARKET_COHORTS = {
  "resnet32_mobilenet": {
    "mobilenet": {"model": "mobilenet.v2"},
    "resnet32": {"model": "resnet_cifar.resnet32"},
  },
  "resnet32_resnet44": {
    "resnet32": {"model": "resnet_cifar.resnet32"},
    "resnet44": {"model": "resnet_cifar.resnet44"},
  },
  "resnet56_resnet152": {
    "resnet152": {"model": "resnet.resnet152"},
    "resnet56": {"model": "resnet_cifar.resnet56"},
  },
}
"""Cohorts of `market1501`: name -> group -> its keys."""
IMAGENET_COHORTS = {
  "resnet34": {"resnet34": {"model": "resnet.resnet34", "members": 2}},
  "resnet18": {"resnet18": {"model": "resnet.resnet18", "members": 2}},
  "mobilenet": {"mobilenet": {"model": "mobilenet.v2", "members": 2}},
  "resnet18_resnet50": {
    "resnet18": {"model": "resnet.resnet18"},
    "resnet50": {"model": "resnet.resnet50"},
  },
  "mobilenet_resnet50": {
    "mobilenet": {"model": "mobilenet.v2"},
    "resnet50": {"model": "resnet.resnet50"},
  },
  "resnet50_resnet152": {
    "resnet152": {"model": "resnet.resnet152"},
    "resnet50": {"model": "resnet.resnet50"},
  },
}
"""Convolutional cohorts on ImageNet: name -> group -> its keys."""

TOKEN_COHORTS = {
  "vit_ceit": {
    "ceit": {"model": "ceit.ceit_b"},
    "vit": {"model": "vit.vit_b"},
  },
  "ceit": {"ceit": {"model": "ceit.ceit_b", "members": 2}},
  "vim": {"vim": {"model": "vim.vim_s", "members": 2}},
}
"""Cohorts of `compared_on_tokens`: name -> group -> its keys."""

_ALEXNET = {"model": "alexnet", "stem": "cifar"}
_DENSENET = {"model": "densenet.densenet_bc100"}
_RESNET = {"model": "resnet_cifar.resnet110"}
_VGG = {"model": "vgg.vgg19", "stem": "cifar"}

CIFAR_PAIRS = {
  "resnet110": {"resnet110": {"members": 2, **_RESNET}},
  "alexnet": {"alexnet": {"members": 2, **_ALEXNET}},
  "vgg19": {"vgg19": {"members": 2, **_VGG}},
  "densenet100": {"densenet100": {"members": 2, **_DENSENET}},
  "alexnet_vgg19": {"first": _ALEXNET, "second": _VGG},
  "vgg19_resnet110": {"first": _VGG, "second": _RESNET},
  "densenet100_resnet110": {"first": _DENSENET, "second": _RESNET},
}
"""Pairs of `network_pair`: name -> group -> its keys."""


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
  config.optimizer = _competitive_sgd()
  return config


def _competitive_sgd() -> ConfigDict:
  """Returns the optimiser of Competitive Distillation: see `cifar`."""
  return optimizer(
    "sgd",
    "step",
    learning_rate=0.1,
    momentum=0.9,
    nesterov=True,
    weight_decay=5e-4,
    milestones=("30%", "60%", "90%"),
    decay=0.1,
  )


def recipe_compared(dataset: str, method: str, **method_kwargs) -> ConfigDict:
  """Returns the recipe of Competitive Distillation on a data set, without a cohort.

  No member is perturbed yet: see `perturbed_as_in_the_text`.

  Args:
    dataset: "cifar10", "cifar100", "imagenet" or "market1501".
    method: registry name.
    **method_kwargs: keywords that differ from the method's defaults.

  Raises:
    ConfigError: for another data set.
  """
  require_choice(dataset=(dataset, ("cifar10", "cifar100", "imagenet", "market1501")))
  if dataset == "market1501":
    return _market1501(method, **method_kwargs)
  if dataset == "imagenet":
    return _imagenet(method, **method_kwargs)
  return cifar(dataset, method, **method_kwargs)


def _market1501(method: str, **method_kwargs) -> ConfigDict:
  """Returns the recipe of Market-1501: see `market1501`."""
  config = default("market1501", method, **method_kwargs)
  config.optimizer = _competitive_sgd()
  config.augment = augmentation("reid")
  # The test split has more images than an epoch.
  config.eval_every = "10 epochs"
  return config


def _imagenet(method: str, **method_kwargs) -> ConfigDict:
  """Returns that of `imagenet` with the batch and learning rate of the paper."""
  config = imagenet(method, **method_kwargs)
  config.batch_size = 128
  config.optimizer.learning_rate_per = 0
  return config


def compared_rows(
  methods: Sequence[str], cohorts: Collection[str] = tuple(CIFAR_COHORTS)
) -> tuple[str, ...]:
  """Returns the rows of a table that compares methods: every cohort under each.

  Args:
    methods: registry names.
    cohorts: their names.
  """
  return tuple(f"{cohort},{method}" for cohort in cohorts for method in methods)


def compared(dataset: str, row: str, methods: Sequence[str]) -> ConfigDict:
  """Returns a row of a table that compares methods: convolutional networks on CIFAR.

  Args:
    dataset: "cifar10" or "cifar100".
    row: "COHORT,METHOD" or, for the first method, "COHORT".
    methods: registry names; only the first one perturbs.

  Raises:
    ConfigError: for another cohort or method.
  """
  cohort, method = _read_row(row, CIFAR_COHORTS, methods)
  config = cifar(dataset, method)
  if method == methods[0]:
    config.perturb = perturbed_as_in_the_text()
  return _with_groups(config, CIFAR_COHORTS[cohort])


def market1501(row: str, methods: Sequence[str]) -> ConfigDict:
  """Returns a row of a table that compares methods on Market-1501.

  The optimiser, the batch of 128 and the 200 epochs are those of `cifar`. Images of
  256x128 pixels are padded by 10, cropped, flipped and partly erased.

  Args:
    row: "COHORT,METHOD" or, for the first method, "COHORT".
    methods: registry names; only the first one perturbs.

  Raises:
    ConfigError: for another cohort or method.
  """
  cohort, method = _read_row(row, MARKET_COHORTS, methods)
  config = _market1501(method)
  if method == methods[0]:
    config.perturb = perturbed_as_in_the_text()
  return _with_groups(config, MARKET_COHORTS[cohort])


def compared_on_imagenet(row: str, methods: Sequence[str]) -> ConfigDict:
  """Returns a row of a table that compares methods: convolutional ones on ImageNet.

  Args:
    row: "COHORT,METHOD" or, for the first method, "COHORT".
    methods: registry names; only the first one perturbs.

  Raises:
    ConfigError: for another cohort or method.
  """
  cohort, method = _read_row(row, IMAGENET_COHORTS, methods)
  config = _imagenet(method)
  if method == methods[0]:
    config.perturb = perturbed_as_in_the_text()
  return _with_groups(config, IMAGENET_COHORTS[cohort])


def compared_on_tokens(
  dataset: str, cohort: str, method: str, **method_kwargs
) -> ConfigDict:
  """Returns the recipe of transformers, or state space models, with such a cohort.

  That of `transformer`, in batches of 128. On CIFAR there are 100 epochs and images are
  resized to 224 pixels, on ImageNet 300 epochs. No member is perturbed yet.

  Args:
    dataset: "cifar10", "cifar100" or "imagenet".
    cohort: of `TOKEN_COHORTS`.
    method: registry name.
    **method_kwargs: keywords that differ from the method's defaults.

  Raises:
    ConfigError: for another data set or cohort.
  """
  require_row(cohort, TOKEN_COHORTS)
  no_decay = ("pos_layer_embed",)
  if cohort == "vim":
    no_decay = ("A_log", "A_b_log", "D", "D_b")
  config = recipe_compared(dataset, method, **method_kwargs)
  transformer(config, no_decay=no_decay)
  keys: dict[str, Any] = {"drop_path": 0.1}
  if dataset == "imagenet":
    config.epochs = 300.0
  else:
    config.epochs = 100.0
    keys["resize"] = 224
  for name, network in TOKEN_COHORTS[cohort].items():
    config.cohort[name] = group(**network, **keys)
  return config


def _read_row(
  row: str, cohorts: Collection[str], methods: Sequence[str]
) -> tuple[str, str]:
  """Returns the cohort and the method of a row.

  Args:
    row: "COHORT,METHOD" or, for the first method, "COHORT".
    cohorts: those there are.
    methods: those there are.

  Raises:
    ConfigError: for another cohort or method.
  """
  cohort, _, method = row.partition(",")
  method = method or methods[0]
  require_choice(cohort=(cohort, tuple(cohorts)), method=(method, tuple(methods)))
  return cohort, method


def perturbed_as_in_the_text() -> ConfigDict:
  """Returns the perturbation of the text of Competitive Distillation: in every step.

  Its released code perturbs in every tenth, which is the default of `perturb.every`.
  """
  return perturbation(every=1)


def network_pair(dataset: str, method: str, pair: str) -> ConfigDict:
  """Returns the recipe of interval distillation, with one of its pairs of networks.

  Args:
    dataset: "cifar10" or "cifar100".
    method: registry name.
    pair: of `CIFAR_PAIRS`.

  Raises:
    ConfigError: for another pair.
  """
  require_row(pair, CIFAR_PAIRS)
  config = cifar(dataset, method)
  step_decay(config, epochs=320.0, weight_decay=5e-4)
  return _with_groups(config, CIFAR_PAIRS[pair])


def _with_groups(
  config: ConfigDict, groups: Mapping[str, Mapping[str, Any]]
) -> ConfigDict:
  """Adds groups to a recipe, which is returned."""
  for name, keys in groups.items():
    config.cohort[name] = group(**keys)
  return config


def imagenet(method: str, **method_kwargs) -> ConfigDict:
  """Returns the recipe of ImageNet for convolutional networks, without a cohort.

  100 epochs, SGD with Nesterov momentum 0.9, learning rate 0.1 for 256 images, a tenth
  every 30 epochs, weight decay 1e-4, batch 256; random resized crops, which the data
  set makes as it reads, and flips.

  Args:
    method: registry name.
    **method_kwargs: keywords that differ from the method's defaults.
  """
  config = default("imagenet", method, **method_kwargs)
  config.batch_size = 256
  config.epochs = 100.0
  config.augment = augmented(config, "imagenet")
  config.optimizer = optimizer(
    "sgd",
    "step",
    learning_rate=0.1,
    learning_rate_per=256,
    momentum=0.9,
    nesterov=True,
    weight_decay=1e-4,
    milestones=("30 epochs", "60 epochs", "90 epochs"),
    decay=0.1,
  )
  return config


def augmented(config: ConfigDict, recipe: str) -> ConfigDict:
  """Returns the section of a recipe of augmentation.

  Its random resized crop is left out where the data set makes one as it reads.

  Args:
    config: names the data set.
    recipe: see `inputs.augment.RECIPES`.
  """
  ops = list(RECIPES[recipe])
  if config.data.get("crop") == "random" and "random_resized_crop" in ops:
    ops.remove("random_resized_crop")
  return augmentation(recipe, ops=ops)


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
  """Changes a recipe to DeiT's: optimiser, regularisation and augmentation.

  Of table 9 of Touvron et al. (ICML 2021) it has AdamW with decay 0.05; the learning
  rate 5e-4 for 512 images, in proportion to `batch_size` also where that is overridden;
  5 epochs of warm-up and a cosine; and for all members, labels smoothed by 0.1,
  RandAugment 9/0.5, mixup 0.8, CutMix 1.0 and random erasing 0.25; no dropout.
  An image stands three times in the order of an epoch, in three augmentations.

  A config file adds the 300 epochs and the stochastic depth of 0.1 (`drop_path` of its
  groups). The batch stays that of the recipe that is changed; table 9 has 1024.

  Not in that table: biases, normalisations, tokens and positions do not decay, and
  weights are averaged (by 0.9999; DeiT's code by 0.99996), as in DeiT's code. Gradients
  are clipped at norm 1, which is ours: the table says that DeiT's are not.

  Args:
    config: the recipe; it is changed and returned.
    no_decay: parameters of the networks, besides these, that do not decay.
  """
  config.label_smoothing = 0.1
  config.ema_decay = 0.9999
  config.augment = augmented(config, "deit")
  config.repeats = 3
  # Cubic, as the crops of DeiT's code.
  if "interpolation" in config.data:
    config.data.interpolation = "bicubic"
  config.optimizer = optimizer(
    "adamw",
    "cosine",
    learning_rate=5e-4,
    learning_rate_per=512,
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
  # A mirrored digit is another one.
  config.augment = augmentation(ops=("pad_crop",), pad_crop={"padding": 1})
  config.optimizer = optimizer(
    "sgd",
    "cosine",
    learning_rate=0.05,
    weight_decay=5e-4,
    warmup="1 epoch",
  )
  return config
