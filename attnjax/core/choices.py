"""The arguments and the results of cache policies; see `attnjax.core.policies`."""

import dataclasses
from typing import Any

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Choice:
  """The keys that one new token's query sees in one layer.

  Attributes:
    places: int32, (B, G, M), logical places; G is 1 for all heads, K or N for one
      choice of each key or query head. Those that are real are distinct.
    real: bool, (B, G, M).
    dense: bool, (), whether all keys are seen, whatever the places say.
    upto: int32, (), no place at or after it in M is real; None says nothing. A step's
      cost falls with it.
    page: static: M is made of runs of so many consecutive places, of which the first
      ones are real or none is; 1 says nothing. Kernels read runs that lie together.
  """

  places: Any
  real: Any
  dense: Any = False
  upto: Any = None
  page: int = dataclasses.field(default=1, metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class News:
  """The tokens of a step, as a policy is told of them.

  Attributes:
    q: (B, T, N, H).
    k: (B, T, K, H).
    places: int32, (B, T), logical; L for padding and tokens of documents that are over.
    live: bool, (B, T), whether a token has a place.
    fresh: bool, (B,), whether a document began, so that place 0 is new.
  """

  q: Any
  k: Any
  places: Any
  live: Any
  fresh: Any
