"""What the compiler is told: whether XLA shares a convolution among cores."""

import os

import jax
import jax.numpy as jnp
import pytest

from jaxdistill.engine import compiler
from jaxdistill.engine.compiler import compiler_options
from jaxdistill.engine.sharding import make_mesh
from jaxdistill.nn import conv


@pytest.fixture
def mesh(monkeypatch):
  """One device with several cores."""
  monkeypatch.setattr(conv, "has_one_device", lambda: True)
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
  monkeypatch.setenv("XLA_FLAGS", "")
  return make_mesh(1)


def convolution_program(options):
  """What XLA makes of a convolution of 32 channels."""
  image = jnp.ones((32, 16, 16, 32))
  kernel = jnp.ones((3, 3, 32, 32))

  def convolve(image, kernel):
    return jax.lax.conv_general_dilated(
      image, kernel, (1, 1), "SAME", dimension_numbers=conv.NHWC
    )

  return jax.jit(convolve, compiler_options=options).lower(image, kernel).compile()


def test_cores_share_a_convolution_where_a_device_has_several(mesh):
  options = compiler_options(mesh)
  assert options is not None
  assert "ynn" in convolution_program(None).as_text()
  assert "ynn" not in convolution_program(options).as_text()


def test_sums_and_products_stay_with_the_library(mesh):
  options = compiler_options(mesh)
  x = jnp.ones((4096, 144))

  def text(function):
    return jax.jit(function, compiler_options=options).lower(x).compile().as_text()

  assert "ynn" in text(lambda x: x.sum(axis=0))
  assert "ynn" in text(lambda x: x @ jnp.ones((144, 24)))


def test_nothing_is_told_where_devices_have_one_core_each(mesh, monkeypatch):
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1})
  assert compiler_options(mesh) is None
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
  monkeypatch.setattr(conv, "has_one_device", lambda: False)
  assert compiler_options(mesh) is None


def test_a_choice_of_the_environment_is_kept(mesh, monkeypatch):
  flag = "--xla_cpu_experimental_ynn_fusion_type=individual_dot"
  monkeypatch.setenv("XLA_FLAGS", flag)
  assert compiler_options(mesh) is None


def test_an_option_that_this_xla_does_not_have_is_left_out(mesh, monkeypatch):
  monkeypatch.setattr(compiler, "_YNN", "xla_cpu_was_removed")
  assert compiler_options(mesh) is None


def test_a_value_that_this_xla_does_not_have_is_left_out(mesh, monkeypatch):
  monkeypatch.setattr(compiler, "_TYPES", "LIBRARY_FUSION_TYPE_REMOVED")
  assert compiler_options(mesh) is None
