"""Runs of a layer of the form "cross": its streams, results and gradients."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.contract.subject import Subject
from attnjax.core.streams import Stream

BATCH, TOKENS = 3, 5


def aligned(subject: Subject) -> bool:
  """Returns whether token t of each stream belongs together."""
  return getattr(subject.module, "ALIGNED", False)


def streams(subject: Subject) -> dict[str, Stream]:
  """Returns three examples of every stream, of 5, 6, ... tokens, or of 5 if aligned."""
  draw = np.random.default_rng(2).standard_normal
  dims, more = widths(subject.module), 0 if aligned(subject) else 1
  return {
    name: Stream(jnp.asarray(draw((BATCH, TOKENS + more * i, dims[name])), jnp.float32))
    for i, name in enumerate(subject.module.STREAMS)
  }


def widths(module: Any) -> Mapping[str, int]:
  """Returns the widths of the streams of a module's tiny layer, by their names."""
  every = dict.fromkeys(module.STREAMS, module.LAYER.get("dim", 0))
  return module.LAYER.get("dims", every)


def lacking(subject: Subject, name: str, value: float) -> dict[str, Stream]:
  """Returns the streams, of which example 1 lacks one; `value` stands in its place."""
  found = {}
  for own, stream in streams(subject).items():
    x, valid = stream.x, jnp.ones(stream.x.shape[:2], bool)
    if own == name:
      x, valid = x.at[1].set(value), valid.at[1].set(False)
    found[own] = Stream(x, valid)
  return found


def run(subject: Subject, given: Mapping[str, Stream], weight: Any = None) -> Any:
  """Returns (gradients of the layer and the streams, the results).

  Args:
    subject: a system's module in this form.
    given: the streams.
    weight: name -> (B, T), which tokens of a result the loss is of; all if None.
  """
  return _both(
    subject.layer, {n: s.x for n, s in given.items()}, dict(given), weight or {}
  )


@jax.jit
def _both(layer, x, given, weight):
  def loss(layer, x):
    y = dict(layer({n: dataclasses.replace(s, x=x[n]) for n, s in given.items()}))
    sums = [
      jnp.sum(jnp.sin(out) * weight[n][..., None] if n in weight else jnp.sin(out))
      for n, out in y.items()
    ]
    return sum(sums), y

  return jax.grad(loss, (0, 1), has_aux=True)(layer, x)
