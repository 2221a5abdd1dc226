"""Pairs of positions that see each other, and the layout of rows."""

import dataclasses
from typing import Any

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Sight:
  """The positions that a query sees, and the scale of the scores.

  A query of position p sees a key of position s of a stream whose window is w if
  p - w < s, and s <= p if causal, else s < p + w. Query t has the position t + offset,
  key s the position s.

  Attributes:
    scale: of the scores.
    causal: whether later keys are hidden.
    windows: of the two streams; 0 is no window.
    offset: of the first query; None if it is a traced argument.
  """

  scale: float
  causal: bool = False
  windows: tuple[int, int] = (0, 0)
  offset: int | None = 0

  @property
  def swapped(self) -> "Sight":
    """Returns the sight for streams in the other order."""
    return dataclasses.replace(self, windows=self.windows[::-1])

  def keys(self, first: Any, last: Any, stream: int, S: int) -> tuple[Any, Any]:
    """Returns [first, end) of the keys that some position in first..last sees.

    Args:
      first: int32 arrays, as `last`.
      last: see `first`.
      stream: 0 or 1.
      S: number of keys.
    """
    window = self.windows[stream]
    begin = first - window + 1 if window else 0 * first
    if self.causal:
      end = last + 1
    else:
      end = last + window if window else 0 * last + S
    return begin.clip(0, S), end.clip(0, S)

  def all_see(self, first: Any, last: Any, stream: int, S: int) -> tuple[Any, Any]:
    """Returns [first, end) of the keys that all these positions see, as `keys`."""
    window = self.windows[stream]
    begin = last - window + 1 if window else 0 * last
    if self.causal:
      end = first + 1
    else:
      end = first + window if window else 0 * first + S
    return begin.clip(0, S), end.clip(0, S)

  def seen(self, p, s, stream: int):
    """Returns whether positions p see keys s, arrays that broadcast, or None."""
    window, found = self.windows[stream], None
    if window:
      found = s > p - window
      found = found if self.causal else found & (s < p + window)
    if self.causal:
      found = (s <= p) if found is None else found & (s <= p)
    return found


def check(q, k1, k2, v1, v2) -> None:
  """Raises ValueError, naming the argument, if shapes do not fit."""
  if q.ndim != 4:
    raise ValueError(f"q {q.shape} must be (B, T, N, H)")
  for name, x in (("k1", k1), ("k2", k2)):
    if x.ndim != 4 or (x.shape[0], x.shape[3]) != (q.shape[0], q.shape[3]):
      raise ValueError(f"{name} {x.shape} must be (B, S, K, H), B and H as q {q.shape}")
  if k2.shape != k1.shape:
    raise ValueError(f"k2 {k2.shape} must have the shape of k1, {k1.shape}")
  for name, x in (("v1", v1), ("v2", v2)):
    if x.ndim != 4 or x.shape[:3] != k1.shape[:3]:
      raise ValueError(f"{name} {x.shape} must be (B, S, K, V) as k1 {k1.shape}")
  if v2.shape != v1.shape:
    raise ValueError(f"v2 {v2.shape} must have the shape of v1, {v1.shape}")
  if not k1.shape[2] or q.shape[2] % k1.shape[2]:
    raise ValueError(f"{q.shape[2]} query heads do not divide by {k1.shape[2]} of keys")


def folded(x, heads: int):
  """Returns (B, T, N, ...) as rows (B K, T N / K, ...) of K heads of keys."""
  B, T, N, *rest = x.shape
  x = x.reshape(B, T, heads, N // heads, *rest)
  x = jnp.moveaxis(x, 2, 1)
  return x.reshape(B * heads, T * (N // heads), *rest)


def unfolded(x, like):
  """Returns rows (B K, R, ...) as (B, T, N, ...).

  Args:
    x: the rows; the last ones may be padding.
    like: an array whose first axes are (B, T, N).
  """
  (U, _, *rest), (batch, tokens, heads) = x.shape, like.shape[:3]
  group = heads // (U // batch)
  heads = U // batch
  x = x[:, : tokens * group].reshape(batch, heads, tokens, group, *rest)
  x = jnp.moveaxis(x, 1, 2)
  return x.reshape(batch, tokens, heads * group, *rest)
