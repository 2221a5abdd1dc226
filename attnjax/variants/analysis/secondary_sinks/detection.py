"""Sinks by the direction of the residual stream: positions, layers, kinds, levels.

All functions are of one sequence, in NumPy: h (L, T, D) is the residual stream after
each layer, without the embedding.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Num

NOISE, SECONDARY, PRIMARY = 0, 1, 2  # kinds of sinks


@dataclasses.dataclass(frozen=True)
class Sink:
  """A token that points along the primary sink in some layers.

  Attributes:
    token: its position.
    kind: NOISE, SECONDARY or PRIMARY, by `lifetime` alone.
    start: the first such layer, where the sink is created.
    lifetime: the number of such layers, gaps not counted.
    token_id: the token, -1 if it is not known.
  """

  token: int
  kind: int
  start: int
  lifetime: int
  token_id: int = -1


def primary_position(
  h: Float[np.ndarray, "L T D"], candidates: Sequence[int] = (0, 1)
) -> int:
  """Returns the candidate whose norm, as a mean over all layers, is the largest."""
  norms = np.linalg.norm(h[:, list(candidates)], axis=2).mean(axis=0)
  return int(candidates[int(norms.argmax())])


def layer_range(norms: Float[np.ndarray, "L"]) -> tuple[int, int]:
  """Returns (start, end) of the layers in which the primary sink lives.

  `norms` are of its residual stream. It begins after the largest rise, and ends with
  the deepest fall after that. Where the largest rise is the last one the range is empty
  (the authors' code raises IndexError).
  """
  rise = np.diff(norms)
  if rise.size == 0:
    return 0, 0
  start = int(rise.argmax()) + 1
  if start == rise.size:
    return start, start
  return start, start + int(rise[start:].argmin()) + 1


def cosines(h: Float[np.ndarray, "L T D"], position: int) -> Float[np.ndarray, "L T"]:
  """Returns the cosine of every token's residual stream to that of `position`."""
  norms = np.linalg.norm(h, axis=2)
  dots = np.einsum("ltd,ld->lt", h, h[:, position])
  lengths = norms * norms[:, position : position + 1]
  return dots / np.where(lengths == 0, 1, lengths)


def sink_layers(
  h: Float[np.ndarray, "L T D"],
  primary: int,
  layers: tuple[int, int],
  threshold: float = 0.9,
) -> Bool[np.ndarray, "L T"]:
  """Returns where tokens after the primary sink point along it, or against it.

  Args:
    h: the residual stream.
    primary: position of the primary sink; it counts in all `layers`.
    layers: (start, end) of the layers that count.
    threshold: of |cosine|.
  """
  found = np.abs(cosines(h, primary)) > threshold
  found[:, :primary] = False
  found[: layers[0]], found[layers[1] :] = False, False
  found[layers[0] : layers[1], primary] = True
  return found


def lengths_of_kinds(layers: int, span: int) -> tuple[int, int]:
  """Returns the least lifetimes of secondary and of primary sinks.

  The authors' constants are for models of 28 layers and more: 5, and all layers but 15.
  Below that they are ours: an eighth of the layers, and three quarters of the `span` of
  layers in which the primary sink lives.
  """
  if layers >= 28:
    return 5, layers - 15
  return max(2, round(layers / 8)), max(2, int(np.ceil(0.75 * span)))


def label_sinks(
  found: Bool[np.ndarray, "L T"],
  *,
  min_layers: int = 5,
  primary_layers: int,
  token_ids: Int[np.ndarray, "T"] | None = None,
) -> list[Sink]:
  """Returns the sinks with their kinds, in the order of their positions.

  Args:
    found: of `sink_layers`.
    min_layers: of a secondary sink.
    primary_layers: from so many on a sink is primary, whatever its position is; the
      authors take all layers of the model but 15.
    token_ids: of the sequence.
  """
  sinks, counts = [], found.sum(axis=0)
  for token in np.flatnonzero(counts):
    lifetime = int(counts[token])
    kind = NOISE if lifetime < min_layers else SECONDARY
    kind = PRIMARY if lifetime >= primary_layers else kind
    start = int(found[:, token].argmax())
    own = -1 if token_ids is None else int(token_ids[token])
    sinks.append(Sink(int(token), kind, start, lifetime, own))
  return sinks


def level_histogram(sinks: Iterable[Sink], layers: int) -> Int[np.ndarray, "L M"]:
  """Returns the number of sinks by creation layer and lifetime, (layers, layers + 1).

  The paper shows ln(1 + count).
  """
  counts = np.zeros((layers, layers + 1), np.int64)
  for sink in sinks:
    counts[sink.start, sink.lifetime] += 1
  return counts


def levels(sinks: Iterable[Sink], least: float = 0.1) -> list[tuple[int, int, float]]:
  """Returns the sink levels: (creation layer, lifetime, share of secondary sinks).

  A level is a pair that holds at least `least` of the secondary sinks; the largest
  comes first.
  """
  pairs = [(s.start, s.lifetime) for s in sinks if s.kind == SECONDARY]
  shares = {pair: pairs.count(pair) / len(pairs) for pair in set(pairs)}
  found = [(*pair, share) for pair, share in shares.items() if share >= least]
  return sorted(found, key=lambda level: (-level[2], level[:2]))


def matrix_entropy(h: Num[np.ndarray, "T D"]) -> float:
  """Computes the entropy, in nats, of the eigenvalues of h^T h over their sum."""
  values = np.linalg.svd(np.asarray(h, np.float64), compute_uv=False) ** 2
  share = values / values.sum()
  share = share[share > 0]
  return float(-(share * np.log(share)).sum())


def growing_entropy(
  h: Float[np.ndarray, "L T D"], first: int = 0, window: int = 100
) -> Float[np.ndarray, "L W"]:
  """Computes `matrix_entropy` of tokens from `first` to the end of each next window."""
  T = h.shape[1]
  ends = [min(end, T) for end in range(first + window, T + window, window)]
  return np.array([[matrix_entropy(x[first:end]) for end in ends] for x in h])
