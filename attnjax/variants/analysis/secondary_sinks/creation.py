"""The creation of a sink: parts of the MLP that creates it, beside the primary's."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from attnjax.contract.trace import Trace
from attnjax.variants.analysis.secondary_sinks.detection import SECONDARY, Sink

# The parts of MLPs in the order of computation, and what attention adds.
PARTS = ("input", "gate", "up", "active", "inner", "output", "attended")


def formation(
  trace: Trace, row: int, primary: int, sinks: Iterable[Sink], kind: int = SECONDARY
) -> dict[str, Float[np.ndarray, "n"]]:
  """Returns cosines to the primary sink's vector where each sink of a kind is created.

  Args:
    trace: of a language model with MLPs.
    row: the sequence in the trace.
    primary: its primary sink's position.
    sinks: those of the sequence.
    kind: of the sinks.

  Returns:
    For each of PARTS that the MLPs show, the sinks' cosines in the order of `sinks`.
  """
  own = [sink for sink in sinks if sink.kind == kind]
  return {
    name: np.array([_cosine(_part(trace, s.start, name)[row], s, primary) for s in own])
    for name in parts_of(trace)
  }


def controls(
  trace: Trace, row: int, primary: int, sinks: Iterable[Sink]
) -> dict[str, Float[np.ndarray, "n"]]:
  """Returns the cosines of `formation` of equal tokens that are no sinks.

  They are taken at the creation layers of the sinks of that token. The authors draw as
  many as there are sinks; here they are all.
  """
  sinks, ids = list(sinks), np.asarray(trace.tokens[row])
  taken = {sink.token for sink in sinks} | {primary}
  pairs = [
    Sink(int(token), sink.kind, sink.start, 0)
    for sink in sinks
    if sink.kind == SECONDARY
    for token in np.flatnonzero(ids == ids[sink.token])
    if token > primary and int(token) not in taken and _real(trace, row, token)
  ]
  return formation(trace, row, primary, pairs)


def _real(trace, row, token) -> bool:
  return trace.ids is None or trace.ids[row, token] >= 0


def parts_of(trace: Trace) -> list[str]:
  """Returns those of PARTS that every block of a trace shows."""
  shown = [set(feed or ()) | {"attended"} for feed in trace.feeds]
  return [name for name in PARTS if shown and all(name in own for own in shown)]


def _part(trace, layer, name):
  values: Mapping = trace.feeds[layer] or {}
  return np.asarray(trace.attended[layer] if name == "attended" else values[name])


def _cosine(x, sink, primary) -> float:
  one, two = x[sink.token].astype(np.float64), x[primary].astype(np.float64)
  length = np.linalg.norm(one) * np.linalg.norm(two)
  return float(one @ two / length) if length else 0.0


def principal_directions(
  inputs: Float[np.ndarray, "n D"],
) -> Float[np.ndarray, "P D"]:
  """Returns the unit vectors of a PCA of centred rows, the largest variance first.

  Directions without variance are left out.
  """
  centred = inputs - inputs.mean(axis=0)
  _, values, vectors = np.linalg.svd(centred, full_matrices=False)
  return vectors[values > 1e-6 * max(values.max(initial=0), 1e-30)]


def probe_directions(
  mlp: Callable[[Any], Any],
  directions: Float[np.ndarray, "P D"],
  target: Float[np.ndarray, "D"],
  *,
  factors: Iterable[float] = (1.0,),
) -> tuple[Float[np.ndarray, "P A"], Float[np.ndarray, "P A"]]:
  """Feeds directions through an MLP; returns (cosines to the target, norms).

  Args:
    mlp: maps (n, D) to (n, D).
    directions: of the MLP's input, for instance `principal_directions`.
    target: the MLP's result at the primary sink.
    factors: A numbers that each direction is multiplied by.
  """
  factors = np.asarray(list(factors), directions.dtype)
  given = (directions[:, None] * factors[:, None]).reshape(-1, directions.shape[1])
  found = np.asarray(mlp(given)).reshape(len(directions), len(factors), -1)
  norms = np.linalg.norm(found, axis=2)
  length = norms * np.linalg.norm(target)
  return found @ target / np.where(length == 0, 1, length), norms


def two_means(
  x: Float[np.ndarray, "n D"], steps: int = 50
) -> tuple[np.ndarray, Float[np.ndarray, "2 D"]]:
  """Clusters rows into two by k-means, from the two that are farthest from the mean.

  Returns:
    The cluster, 0 or 1, of each row, and the two centres.
  """
  first = int(np.square(x - x.mean(axis=0)).sum(axis=1).argmax())
  second = int(np.square(x - x[first]).sum(axis=1).argmax())
  centres = x[[first, second]].astype(np.float64)
  own = np.zeros(len(x), np.int64)
  for _ in range(steps):
    own = np.square(x[:, None] - centres).sum(axis=2).argmin(axis=1)
    new = np.stack([x[own == i].mean(0) if (own == i).any() else c
                    for i, c in enumerate(centres)])  # fmt: skip
    if np.allclose(new, centres):
      break
    centres = new
  return own, centres


def separation(x: Float[np.ndarray, "n D"], sink: np.ndarray) -> float:
  """Returns the share of rows that `two_means` puts with their own kind, 0.5 to 1."""
  own, _ = two_means(x)
  right = float((own == np.asarray(sink, np.int64)).mean())
  return max(right, 1 - right)
