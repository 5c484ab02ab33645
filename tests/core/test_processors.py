"""The processors of a process, also where they cannot be set apart."""

import os

from jaxdistill.core.processors import processors


def test_those_that_are_set_apart_count(monkeypatch):
  monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 1}, raising=False)
  assert processors() == [1, 3]


def test_all_count_where_none_can_be_set_apart(monkeypatch):
  monkeypatch.delattr(os, "sched_getaffinity", raising=False)
  monkeypatch.setattr(os, "cpu_count", lambda: 4)
  assert processors() == [0, 1, 2, 3]
