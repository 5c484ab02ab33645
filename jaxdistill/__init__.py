"""Cohorts of image classifiers that teach each other, in one jitted JAX step.

`jaxdistill.losses`, `jaxdistill.targets` and `jaxdistill.metrics` are plain functions
of arrays for any JAX code. `train` runs a whole experiment, `load_config` reads its
config file, `load` loads a member that it trained.
"""

__version__ = "0.1.0"

__all__ = ["load", "load_config", "train"]


def __getattr__(name: str):
  # Lazy, so that importing a loss imports neither flax nor orbax.
  if name == "train":
    from jaxdistill.run.trainer import train

    return train
  if name == "load_config":
    from jaxdistill.run.config import load_config

    return load_config
  if name == "load":
    from jaxdistill.run.member import load

    return load
  raise AttributeError(f"module 'jaxdistill' has no attribute {name!r}")
