"""SnapKV and Ada-SnapKV as cache policies: a prompt is compressed once."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.core import budgets
from attnjax.core.exported import serializable
from attnjax.core.policies import Choice, News, Past
from attnjax.variants.decode.sparse_frontier import compression


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Compressed:
  """The state of a layer whose prompt is compressed once.

  Attributes:
    queries: (B, W + 1, N, H), those of the last places, at place mod W + 1.
    done: bool, (B,), whether the document's prompt is compressed.
    start: int32, (B,), the number of its places.
    kept: int32, (B, K), how many of these places are kept.
    places: int32, (B, K, M), which ones, in order, before M - kept of any value.
    count: int32, (B,), places that are taken.
  """

  queries: Any
  done: Any
  start: Any
  kept: Any
  places: Any
  count: Any


@dataclasses.dataclass(frozen=True)
class SnapKV:
  """SnapKV as a cache policy; see `attnjax.contract.forms.policy`.

  The first token after the prompt chooses, by the queries of the last tokens before it.
  Of a document that begins after the prompt all keys are seen.

  Attributes:
    capacity: keys of the prompt that each key head keeps.
    window: W, last queries, whose attention chooses.
    pool: keys over which importance is averaged, odd.
    local: last keys, always kept.
    first: first keys, always kept.
    room: of the later tokens the last so many are seen; 0 for all. It is ours.
    group: query heads of a key head, N / K; 0 before `grouped`.
  """

  capacity: int = 1024
  window: int = 256
  pool: int = 21
  local: int = 128
  first: int = 4
  room: int = 0
  group: int = 0

  def __post_init__(self):
    sizes = self.capacity, self.window, self.pool, self.local, self.first
    compression.check(*sizes)
    if self.room < 0 or self.group < 0:
      raise ValueError(f"room = {self.room}, group = {self.group}: at least 0")

  def fitted(self, layers: int) -> "SnapKV":
    """Returns the policy: it fits every model."""
    del layers
    return self

  def of_fraction(self, fraction: float, length: int) -> "SnapKV":
    """Returns the policy that keeps a share of a row's keys, the next one included.

    The last keys keep their share of it. Of the tokens that are decoded all but the
    first are read besides, unless `room` is set.
    """
    keys = budgets.keys(fraction, length)
    capacity = length if fraction == 1 else keys - 1
    local = capacity * self.local // max(self.capacity, 1)
    first = min(self.first, capacity - local, keys // 16)
    sizes = {"capacity": capacity, "local": local, "first": first}
    return dataclasses.replace(self, **sizes)

  def grouped(self, group: int) -> "SnapKV":
    """Returns the policy for a layer of `group` query heads for each key head.

    Raises:
      NotImplementedError: if neither the layer nor the policy tells their number.
    """
    if not (group or self.group):
      raise NotImplementedError(
        f"{type(self).__name__} keeps queries; the layer's cache does not tell how many"
        " query heads it has, and so `group` must"
      )
    return dataclasses.replace(self, group=group or self.group)

  def init(self, batch: int, length: int, heads: int, size: int, dtype: Any) -> Any:
    """Returns the state before any token."""
    none = jnp.zeros((batch,), jnp.int32)
    return Compressed(
      queries=jnp.zeros((batch, self.window + 1, heads * self.group, size), dtype),
      done=jnp.zeros((batch,), bool),
      start=none,
      kept=jnp.zeros((batch, heads), jnp.int32),
      places=jnp.zeros((batch, heads, min(self._most(heads), length)), jnp.int32),
      count=none,
    )

  def start(self, batch: int, length: int) -> Any:
    """Returns nothing: layers choose alone."""
    del batch, length
    return ()

  def observe(self, own: Compressed, news: News) -> Compressed:
    """Returns the state with the queries of new tokens, or of a new document."""
    size, fresh = own.queries.shape[1], news.fresh
    before = jnp.where(fresh, 0, own.count)
    count = before + news.live.sum(axis=1, dtype=jnp.int32)
    recent = news.live & (news.places >= count[:, None] - size)
    where = jnp.where(recent, news.places % size, size)
    queries = jnp.where(fresh[:, None, None, None], 0, own.queries)
    rows = jnp.arange(len(where))[:, None]
    queries = queries.at[rows, where].set(news.q.astype(queries.dtype), mode="drop")
    # What a document's prompt left is replaced when the next one's is compressed.
    done = own.done & ~fresh
    return dataclasses.replace(own, queries=queries, done=done, count=count)

  def choose(
    self, q: Float[Array, "B N H"], past: Past, own: Any, shared: Any, index: Any
  ) -> tuple[Choice, Any, Any]:
    """Returns the kept places of the prompt, and those after it."""
    del q, index
    due = ~own.done & past.real
    kept, places = jax.lax.cond(
      due.any(),
      lambda: self._kept(past, own, past.count - 1),
      lambda: (own.kept, own.places),
    )
    own = dataclasses.replace(
      own,
      kept=jnp.where(due[:, None], kept, own.kept),
      places=jnp.where(due[:, None, None], places, own.places),
      start=jnp.where(due, past.count - 1, own.start),
      done=own.done | due,
    )
    return self._choice(own, past.count, past.slots.shape[1]), own, shared

  def reads(self, places: int, layers: int) -> tuple[float, float]:
    """Returns (keys that the first query after a prompt reads in all layers, 0)."""
    return self.decoded_reads(places - 1, places, layers)

  def decoded_reads(self, prompt: int, places: int, layers: int) -> tuple[float, float]:
    """Returns (keys that a query reads in all layers, 0): kept ones, and later ones."""
    later = places - prompt
    if self.room:
      later = min(later, self.room)
    return float(layers * (min(prompt, self.capacity) + later)), 0.0

  def _kept(self, past: Past, own: Compressed, lengths) -> tuple[Array, Array]:
    """Returns how many of the first `lengths` places are kept, and which."""
    places = lengths[:, None] - self.window + jnp.arange(self.window)
    at = (places % (self.window + 1))[..., None, None]
    queries = jnp.take_along_axis(own.queries, at, axis=1)
    keys = jnp.take_along_axis(past.tokens.k, past.slots[..., None, None], axis=1)
    real = jnp.arange(keys.shape[1]) < lengths[:, None]
    keys = jnp.where(real[..., None, None], keys, 0)
    kept = self._chosen(queries, keys, lengths)
    first = jnp.argsort(~kept, axis=2, stable=True)[..., : own.places.shape[2]]
    return kept.sum(axis=2, dtype=jnp.int32), first.astype(jnp.int32)

  def _chosen(self, queries, keys, lengths) -> Array:
    mass = compression.importance(queries, keys, lengths, pool=self.pool)
    sizes = {"capacity": self.capacity, "local": self.local, "first": self.first}
    return compression.keep(mass, lengths, **sizes)

  def _most(self, heads: int) -> int:
    """Returns how many keys a key head keeps at most."""
    del heads
    return self.capacity

  def _choice(self, own: Compressed, count, length: int) -> Choice:
    """Returns the places that are kept, and then later ones in order."""
    held, kept = own.places.shape[2], own.kept[..., None]
    M = min(held + self.room, length) if self.room else length
    place, first = jnp.arange(M, dtype=jnp.int32), own.start
    if self.room:
      first = jnp.maximum(first, count - self.room)
    seen = kept + (count - first)[:, None, None]
    old = jnp.pad(own.places[..., :M], [(0, 0)] * 2 + [(0, M - min(held, M))])
    places = jnp.where(place < kept, old, place - kept + first[:, None, None])
    return Choice(places, place < seen, upto=seen.max())


@dataclasses.dataclass(frozen=True)
class AdaSnapKV(SnapKV):
  """Ada-SnapKV as a cache policy: SnapKV whose key heads keep more or fewer keys.

  Attributes:
    capacity: keys that a key head keeps in the mean; the others as SnapKV's.
    floor: share of the capacity that each key head keeps at least.
  """

  floor: float = 0.2

  def __post_init__(self):
    super().__post_init__()
    if not 0 <= self.floor <= 1:
      raise ValueError(f"floor = {self.floor}; it is a share of the capacity")

  def _chosen(self, queries, keys, lengths) -> Array:
    given = {"pool": self.pool, "adaptive": True}
    mass = compression.importance(queries, keys, lengths, **given)
    sizes = {"capacity": self.capacity, "local": self.local, "first": self.first}
    return compression.keep_adaptive(mass, lengths, **sizes, floor=self.floor)

  def _most(self, heads: int) -> int:
    own = compression.least(self.capacity, self.local, self.first, self.floor)
    return heads * self.capacity - (heads - 1) * own
