"""What every test of the data sets gets: small arrays, and no network."""

import socket

import numpy as np
import pytest

from tests.helpers.data_files import TEST, TRAIN


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
  random = np.random.default_rng(0)
  return {
    "images_train": random.integers(0, 256, (TRAIN, 32, 32, 3), np.uint8),
    "labels_train": random.integers(0, 10, TRAIN),
    "images_test": random.integers(0, 256, (TEST, 32, 32, 3), np.uint8),
    "labels_test": random.integers(0, 10, TEST),
  }


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
  def refuse(*args, **kwargs):
    pytest.fail(f"something tried the network: {args}")

  monkeypatch.setattr(socket.socket, "connect", refuse)
  monkeypatch.setattr(socket, "getaddrinfo", refuse)
