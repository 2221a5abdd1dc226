"""Answers as labels of points: polygons, tours and triangles, in arrays of JAX.

Labels (B, T) are 1 .. S of points (B, S, 2), then 0 once, then -1.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Labels = Int[Array, "B T"]


def asked(batch: dict) -> Bool[Array, "B"]:
  """Returns which examples of a batch are no padding."""
  return batch["labels"][:, 0] >= 0


def corners(points: Float[Array, "B S I"], labels: Labels) -> Float[Array, "B T I"]:
  """Returns the points of labels; the first one stands where there is no label."""
  place = jnp.where(labels > 0, labels, labels[:, :1]) - 1
  return jnp.take_along_axis(points, jnp.maximum(place, 0)[..., None], axis=1)


def area(points: Float[Array, "B S 2"], labels: Labels) -> Float[Array, "B"]:
  """Returns the area within a polygon that is simple."""
  here = corners(points, labels)
  return jnp.abs(_cross(here, jnp.roll(here, -1, axis=1)).sum(-1)) / 2


def length(points: Float[Array, "B S I"], labels: Labels) -> Float[Array, "B"]:
  """Returns the length of a closed tour."""
  here = corners(points, labels)
  step = here - jnp.roll(here, -1, axis=1)
  return jnp.sqrt(jnp.square(step).sum(-1)).sum(-1)


def distinct(labels: Labels) -> Bool[Array, "B"]:
  """Returns whether no point is named twice."""
  T = labels.shape[1]
  same = (labels[:, :, None] == labels[:, None]) & (labels > 0)[:, None]
  return ~(same & ~jnp.eye(T, dtype=bool)).any((1, 2))


def simple(points: Float[Array, "B S 2"], labels: Labels) -> Bool[Array, "B"]:
  """Returns whether labels are a polygon whose edges do not cross."""
  a = corners(points, labels)
  b = jnp.roll(a, -1, axis=1)
  # sides[i, j]: whether the ends of edge j are on two sides of edge i's line.
  first, last = (
    _cross((b - a)[:, :, None], end[:, None] - a[:, :, None]) for end in (a, b)
  )
  sides = first * last < 0
  crossed = (sides & sides.transpose(0, 2, 1)).any((1, 2))
  return ((labels > 0).sum(-1) > 2) & distinct(labels) & ~crossed


def same_polygon(found: Labels, wanted: Labels) -> Bool[Array, "B"]:
  """Returns whether two polygons are equal, from any corner, in either direction."""
  T = found.shape[1]
  count = (wanted > 0).sum(-1)
  place, start = jnp.arange(T), jnp.arange(T)[:, None]
  size = jnp.maximum(count, 1)[:, None, None]
  inside = place < count[:, None, None]
  equal = []
  for turned in (start + place, start - place):
    own = jnp.take_along_axis(wanted[:, None], turned[None] % size, axis=2)
    equal.append(((own == found[:, None]) | ~inside).all(-1).any(-1))
  return ((found > 0).sum(-1) == count) & (equal[0] | equal[1])


def triples(labels: Labels) -> tuple[Int[Array, "B K 3"], Bool[Array, "B K"]]:
  """Returns whole triples of labels in rising order, and which of them there are."""
  B, T = labels.shape
  cut = labels[:, : T - T % 3].reshape(B, -1, 3)
  return jnp.sort(cut, axis=-1), (cut > 0).all(-1)


def _cross(a, b):
  return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
