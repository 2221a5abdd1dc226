"""The sinks of every row of a trace."""

import dataclasses

import numpy as np

from attnjax.contract.trace import Trace
from attnjax.variants.analysis.secondary_sinks import detection
from attnjax.variants.analysis.secondary_sinks.detection import SECONDARY, Sink


@dataclasses.dataclass(frozen=True)
class Row:
  """The sinks of a sequence.

  Attributes:
    number: of the row in its batch.
    places: of its tokens in the row, padding left out.
    primary: place of the primary sink.
    layers: (start, end) of the layers that it lives in.
    sinks: with places for positions; that of the primary sink is among them.
    cosine: (L, T) to the primary sink, NaN at padding.
  """

  number: int
  places: np.ndarray
  primary: int
  layers: tuple[int, int]
  sinks: tuple[Sink, ...]
  cosine: np.ndarray

  @property
  def secondary(self) -> list[Sink]:
    """Returns the secondary sinks; the primary one is never among them."""
    return [s for s in self.sinks if s.kind == SECONDARY and s.token != self.primary]


def sinks_of(
  trace: Trace,
  *,
  candidates: int = 2,
  threshold: float = 0.9,
  clip: bool = True,
  min_layers: int = 0,
  primary_layers: int = 0,
) -> list[Row]:
  """Finds the sinks of every row of a trace.

  Args:
    trace: of a causal language model, a document in each row.
    candidates: the first tokens among which the primary sink is; 3 with the template of
      a chat.
    threshold: of |cosine|.
    clip: whether layers count only where the primary sink lives, see `layer_range`.
    min_layers: of a secondary sink; 0 for `lengths_of_kinds`.
    primary_layers: of a primary one; 0 for `lengths_of_kinds`.

  Raises:
    ValueError: for a row of several documents or without tokens, or candidates < 1.
  """
  if candidates < 1:
    raise ValueError(f"candidates = {candidates}; it must be 1 or more")
  hidden = np.stack([np.asarray(x, np.float32) for x in trace.hidden[1:]], axis=1)
  found = []
  for number, h in enumerate(hidden):
    places = _places(trace, number, h.shape[1])
    own, L = h[:, places], len(h)
    b = detection.primary_position(own, range(min(candidates, len(places))))
    layers = (0, L)
    if clip:
      layers = detection.layer_range(np.linalg.norm(own[:, b], axis=1))
    short, long = detection.lengths_of_kinds(L, layers[1] - layers[0])
    sinks = detection.label_sinks(
      detection.sink_layers(own, b, layers, threshold),
      min_layers=min_layers or short,
      primary_layers=primary_layers or long,
      token_ids=None if trace.tokens is None else trace.tokens[number][places],
    )
    moved = [dataclasses.replace(s, token=int(places[s.token])) for s in sinks]
    cosine = np.full(h.shape[:2], np.nan, np.float32)
    cosine[:, places] = detection.cosines(own, b)
    found.append(Row(number, places, int(places[b]), layers, tuple(moved), cosine))
  return found


def _places(trace, number, T):
  if trace.ids is None:
    return np.arange(T)
  ids = np.asarray(trace.ids[number])
  documents = np.unique(ids[ids >= 0])
  if len(documents) != 1:
    raise ValueError(f"row {number} has {len(documents)} documents; it must have one")
  return np.flatnonzero(ids >= 0)
