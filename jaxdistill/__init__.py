"""jaxdistill: cohorts of image classifiers that teach each other, in one jitted JAX step.

`jaxdistill.losses`, `jaxdistill.targets` and `jaxdistill.metrics` are plain functions of arrays for any JAX code;
`jaxdistill.train` runs a whole experiment.
"""

__version__ = "0.1.0"


def __getattr__(name: str):
  # Lazy, so that importing a loss imports neither flax nor orbax. The module is called trainer because a
  # submodule named train would hide the function.
  if name == "train":
    from jaxdistill.trainer import train
    return train
  raise AttributeError(f"module 'jaxdistill' has no attribute {name!r}")
