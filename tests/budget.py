"""Counts the processor seconds of every test, those of child processes included.

The suite's summary has what each area took; a system that needs more than its budget
over all its tests fails the suite by its name.
"""

import collections
import os
import time

import pytest

from tests import scopes

# Processor seconds of one system over all its tests: what 84 of them can have.
BUDGET = 15.0
# What a system may take beside that if it is a whole published network, too: the forms
# "backbone" and "dense", whose checks compile one.
NETWORK = 10.0
# Systems from before the budget: what they took, and a quarter more; later ones with
# the reason.
EXCEPTIONS: dict[str, float] = {
  "aaren": 50,
  "agent_attention": 65,
  "crossformer": 30,  # two networks of the authors were added
  "dot_product": 110,
  "dynamic_mask": 80,
  "dynamical_systems": 55,
  "gated_attention": 80,
  "halo": 40,
  "hilo": 25,
  "hyperzzw": 60,
  "isomorphic_graph": 25,  # four kinds, edges in two forms, an adapter with a cache
  "l2vit": 30,
  "lightning2": 60,
  "maxvit": 50,
  "medvitv2": 50,
  "mixture_of_head": 30,  # three forms, two routers, two ways to compute
  "msa_conv": 35,
  "neighborhood": 145,
  "nprf": 100,
  "overlock": 50,  # a network of three parts, and blocks of three kinds
  "rcmha": 25,  # four kinds, memories, a language model
  "rectified_sparse": 65,
  "routing_transformer": 70,
  "scale_dit": 30,
  "soft": 45,  # two networks of the authors were added
  "sparse_frontier": 40,  # six cache policies, each held to the form
  "sparsifiner": 38,  # the authors' network was added
  "superlinear": 90,
}
# A suite fails above this many times its budget: neighbours on a machine cost as well,
# and do so after `_work` was measured, too.
_NOISE = 2.0
# Seconds of `_work` on an idle core of the machine that the budget was made on.
_REFERENCE = 0.034


_ELSEWHERE = [0.0]


def elsewhere(seconds: float) -> None:
  """Adds processor seconds of a process that this one does not wait for."""
  _ELSEWHERE[0] += seconds


def used() -> float:
  """Returns the processor seconds of this process and of its finished children."""
  times = os.times()
  own = times.user + times.system + times.children_user + times.children_system
  return own + _ELSEWHERE[0]


def _work() -> float:
  """Returns the processor seconds of a fixed piece of work."""
  begun = time.process_time()
  table: dict[int, str] = {}
  for number in range(200_000):
    table[number % 997] = str(number)
  return time.process_time() - begun


class Budget:
  """A pytest plugin: workers count, the first process sums and judges."""

  def __init__(self):
    self.seconds: dict[str, float] = collections.defaultdict(float)
    self._begun = used()
    # Beside other work processor seconds are longer ones, too.
    self.slower = max(1.0, min(_work() for _ in range(5)) / _REFERENCE)

  def pytest_runtest_logstart(self, nodeid, location):
    """Begins to count a test."""
    self._begun = used()

  @pytest.hookimpl(hookwrapper=True)
  def pytest_runtest_makereport(self, item, call):
    """Adds what a phase of a test took to its report."""
    outcome = yield
    now = used()
    report = outcome.get_result()
    report.user_properties.append(("processor", now - self._begun))
    self._begun = now

  def pytest_runtest_logreport(self, report):
    """Sums the reports of all workers."""
    self.seconds[report.nodeid] += dict(report.user_properties).get("processor", 0.0)

  def over(self) -> dict[str, float]:
    """Returns the systems above their budget, with their seconds."""
    sums = self.sums(scopes.system)
    return {
      slug: seconds
      for slug, seconds in sums.items()
      if slug and seconds > self.slower * _NOISE * self.allowed(slug)
    }

  def allowed(self, slug: str) -> float:
    """Returns the processor seconds of a system's budget."""
    names = [f"_{slug}_{form}_" for form in ("backbone", "dense")]
    network = any(name in nodeid for nodeid in self.seconds for name in names)
    return EXCEPTIONS.get(slug, BUDGET) + NETWORK * network

  def sums(self, group) -> dict:
    """Returns the seconds of the tests that `group` gives one name, largest first."""
    found = collections.Counter()
    for nodeid, seconds in self.seconds.items():
      found[group(nodeid)] += seconds
    return dict(found.most_common())

  def pytest_sessionfinish(self, session):
    """Fails a suite whose tests pass where a system costs too much."""
    if not hasattr(session.config, "workerinput") and self.over():
      session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED

  def pytest_terminal_summary(self, terminalreporter):
    """Prints the seconds of areas, and of systems above their budget."""
    if sum(self.seconds.values()) < BUDGET:
      return
    tests = collections.Counter(map(scopes.area, self.seconds))
    terminalreporter.section("processor seconds", sep="-")
    for name, seconds in self.sums(scopes.area).items():
      terminalreporter.line(f"{seconds:7.1f} s  {tests[name]:5} tests  {name}")
    for slug, seconds in self.over().items():
      most = self.allowed(slug)
      terminalreporter.line(
        f"{slug} takes {seconds:.1f} processor seconds over all its tests, and may"
        f" take {most:.0f} (here, with noise, {most * self.slower * _NOISE:.0f})",
        red=True,
      )
