"""The form "analysis": reads a model's trace and reports arrays and numbers.

  report = analyse(model.trace(*inputs, **context), **options)

A system's module has

  analyse   analyse(trace, *, **options) -> report, names to NumPy arrays, numbers and
            words; every option has a default
  HOSTS     the hosts of `attnjax.models` whose traces it reads, by name
  AXES      every name that a report may have -> its axes, a letter each: "BLT"; "" for
            numbers and words. B is of the examples and T of the tokens, and of each
            letter there is one size in a report
  MEANINGS  the same names -> what they are, a phrase each, for pages and notebooks
  LABELS    optional: letter -> the names of the elements on that axis
  ANALYSE   optional: the options of the checks, where the defaults are too large

A report is of all examples together where it has no axis B: examples in another order,
and padding behind them, change nothing but the order on B and the length of T.
`contract.plain` gives it the types of JSON; NaN is what is undefined there.

A host whose inputs are neither tokens nor images alone has `tiny(rngs)`, which returns
a small model and a batch of at least two examples.
"""

import dataclasses
import functools
import importlib
import inspect
import json
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.contract import registry, reports
from attnjax.contract.subject import Subject, close, equal, require
from attnjax.contract.trace import Trace

_SIZES = {"vocab": 17, "channels": 1, "classes": 3}
_EXAMPLES, _TOKENS, _PADDING = 3, 24, 5
_ORDER = np.array([2, 0, 1])


class Analyse(Protocol):
  """A function `analyse`."""

  def __call__(self, trace: Trace, **options: Any) -> Mapping[str, Any]:
    """Returns the report of a trace."""
    ...


@functools.cache
def tiny(name: str) -> tuple[Any, dict[str, Any]]:
  """Returns a small model of a host, around dot products, and a batch of 3 examples."""
  host = importlib.import_module(f"attnjax.models.{name}")
  if hasattr(host, "tiny"):
    return host.tiny(nnx.Rngs(0))
  build = registry.constructor("dot_product", {"heads": 2}, host.FORMS)
  sizes = {size: _SIZES[size] for size in host.SIZES}
  model = host.Model([build], **sizes, rngs=nnx.Rngs(0))
  draw = np.random.default_rng(0)
  if host.TAKES == "tokens":
    tokens = draw.integers(0, _SIZES["vocab"], (_EXAMPLES, _TOKENS), np.int32)
    return model, {"tokens": tokens}
  images = draw.standard_normal((_EXAMPLES, 16, 16, 1), np.float32)
  return model, {"image": images}


def trace(name: str, batch: Mapping[str, Any], **context: Any) -> Trace:
  """Returns the trace of a tiny host, compiled, as NumPy arrays."""
  host, (model, _) = importlib.import_module(f"attnjax.models.{name}"), tiny(name)
  arguments, options = host.inputs(batch)
  return jax.device_get(_traced(model, *arguments, **options, **context))


@jax.jit
def _traced(model, *arguments, **options):
  return model.trace(*arguments, **options)


@dataclasses.dataclass(frozen=True)
class _Report:
  """Holds the report of a host's batch, with the axes of its entries."""

  subject: Subject
  host: str

  def of(self, found: Trace) -> dict[str, Any]:
    """Returns the report of a trace."""
    options = getattr(self.subject.module, "ANALYSE", {})
    return dict(self.subject.module.analyse(found, **options))

  @functools.cached_property
  def plain(self) -> dict[str, Any]:
    """Returns the report of the host's own batch."""
    return self.of(trace(self.host, tiny(self.host)[1]))

  def taken(self, report: Mapping[str, Any], letter: str, which: Any) -> dict[str, Any]:
    """Returns the report with those of an axis' places."""

    def take(name, value):
      for axis, own in enumerate(self.subject.module.AXES[name]):
        value = np.take(value, which, axis) if own == letter else value
      return value

    return {name: take(name, value) for name, value in report.items()}


@functools.cache
def _reports(subject: Subject) -> tuple[_Report, ...]:
  return tuple(_Report(subject, host) for host in subject.module.HOSTS)


def runs_on_its_hosts(subject: Subject) -> None:
  """Checks that reports have the axes that AXES says, in NumPy, and the same twice."""
  require(subject.module.HOSTS, "HOSTS names no host")
  for report in _reports(subject):
    sizes: dict[str, int] = {"B": len(next(iter(tiny(report.host)[1].values())))}
    require(report.plain, f"{report.host}: the report is empty")
    for name, value in report.plain.items():
      require(name in subject.module.AXES, f"AXES does not have {name!r}")
      require(name in subject.module.MEANINGS, f"MEANINGS does not have {name!r}")
      require(not isinstance(value, jax.Array), f"{name} is no NumPy array")
      axes, shape = subject.module.AXES[name], np.shape(value)
      require(len(axes) == len(shape), f"{name} {shape} has the axes {axes!r}")
      for letter, size in zip(axes, shape):
        known = sizes.setdefault(letter, size)
        require(known == size, f"{name} {shape}: {letter} is {known} elsewhere")
    for letter, labels in getattr(subject.module, "LABELS", {}).items():
      size = sizes.get(letter, len(labels))
      require(len(labels) == size, f"LABELS[{letter!r}] names {len(labels)} of {size}")
    again = report.of(trace(report.host, tiny(report.host)[1]))
    equal(again, report.plain, f"{report.host}, once more")


def gives_every_option_a_default(subject: Subject) -> None:
  """Checks that the options of `analyse` are keywords with a default."""
  first, *options = inspect.signature(subject.module.analyse).parameters.values()
  require(first.name == "trace", f"the first argument is {first.name!r}, not trace")
  for option in options:
    keyword = option.kind == inspect.Parameter.KEYWORD_ONLY
    given = option.default is not inspect.Parameter.empty
    require(keyword and given, f"{option.name} is no keyword with a default")


def takes_examples_in_any_order(subject: Subject) -> None:
  """Checks that another order of the examples changes the order on their axis only."""
  for report in _reports(subject):
    batch = {n: v[_ORDER] for n, v in tiny(report.host)[1].items()}
    got = report.of(trace(report.host, batch))
    close(got, report.taken(report.plain, "B", _ORDER), report.host)


def ignores_padding(subject: Subject) -> None:
  """Checks that padding behind the tokens changes the length of their axis only."""
  for report in _reports(subject):
    batch = tiny(report.host)[1]
    if set(batch) != {"tokens"}:
      continue  # only rows of tokens alone are padded
    tokens = np.pad(batch["tokens"], ((0, 0), (0, _PADDING)), constant_values=1)
    T = batch["tokens"].shape[1]
    valid = jnp.broadcast_to(jnp.arange(tokens.shape[1]) < T, tokens.shape)
    got = report.of(trace(report.host, {"tokens": tokens}, valid=valid))
    close(report.taken(got, "T", np.arange(T)), report.plain, report.host)


def survives_json(subject: Subject) -> None:
  """Checks that a report is read again from JSON as it was."""
  for report in _reports(subject):
    text = json.dumps(reports.plain(report.plain), allow_nan=False)
    for name, value in json.loads(text).items():
      want = np.asarray(report.plain[name])
      got = np.array(value, want.dtype)
      got = got if want.size else got.reshape(want.shape)  # [] has lost its axes
      np.testing.assert_array_equal(got, want, name)


def outputs(subject: Subject) -> dict[str, Any]:
  """Returns the reports of all hosts: what a mutant may change."""
  return {report.host: report.plain for report in _reports(subject)}


CHECKS = (
  runs_on_its_hosts,
  gives_every_option_a_default,
  takes_examples_in_any_order,
  ignores_padding,
  survives_json,
)
