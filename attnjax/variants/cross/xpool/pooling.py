"""Pooling of frames by a text, for all pairs, in tiles of pairs."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from attnjax.contract import check_known
from attnjax.core.tiles import tiled
from attnjax.core.units import unit
from attnjax.variants.cross.xpool import definition, vectors
from attnjax.variants.cross.xpool.vectors import Videos, encode
from attnjax.variants.cross.xpool.weights import Weights

IMPLEMENTATIONS = ("reference", "xla")


def pool(
  text: Float[Array, "Q D"],
  frames: Float[Array, "I F D"],
  weights: Weights,
  *,
  heads: int = 1,
  valid: Bool[Array, "I F"] | None = None,
  drop_rate: float = 0.3,
  key: Key[Array, ""] | None = None,
  impl: str = "auto",
) -> Float[Array, "I Q D"]:
  """Computes each text's own vector of each video (arXiv:2203.15086, section 4.3).

  A video without frames has the vector of frames whose values and biases are 0.

  Args:
    text: one vector a text, not normalised.
    frames: of the videos, likewise.
    weights: the parameters.
    heads: N, which divides D.
    valid: True at the real frames; all are real if None.
    drop_rate: share of the residual branch that is dropped with a key.
    key: turns dropout on.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if sizes do not fit or `impl` is unknown.
    NotImplementedError: for dropout in "reference".
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if impl == "reference":
    _refuse(key=key)
    return definition.reference_pool(text, frames, weights, heads=heads, valid=valid)
  query = vectors.queries(text, weights, heads)
  videos = encode(frames, weights, heads=heads, valid=valid)
  places, seeds = jnp.arange(text.shape[0]), vectors.seeds(key, frames)
  pooled = vectors.of_pairs(query, places, videos, seeds, weights, drop_rate)
  return pooled.astype(text.dtype)


def similarity(
  text: Float[Array, "Q D"],
  frames: Float[Array, "I F D"],
  weights: Weights,
  *,
  heads: int = 1,
  valid: Bool[Array, "I F"] | None = None,
  tile: int = 0,
  drop_rate: float = 0.3,
  key: Key[Array, ""] | None = None,
  impl: str = "auto",
) -> Float[Array, "Q I"]:
  """Computes the cosine of each text and its own vector of each video, float32.

  Args:
    text: as in `pool`, as are the other arguments.
    frames: of the videos.
    weights: the parameters.
    heads: N.
    valid: True at the real frames.
    tile: texts, and videos, of which the vectors are in memory at a time; they are
      recomputed in the backward pass. 0: all.
    drop_rate: share that is dropped with a key.
    key: turns dropout on.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if sizes do not fit or `impl` is unknown.
    NotImplementedError: for dropout or tiles in "reference".
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if impl == "reference":
    _refuse(key=key, tile=tile or None)
    return definition.reference_similarity(
      text, frames, weights, heads=heads, valid=valid
    )
  videos = encode(frames, weights, heads=heads, valid=valid)
  given = {"heads": heads, "tile": tile, "drop_rate": drop_rate, "key": key}
  return search(text, videos, weights, **given)


def search(
  text: Float[Array, "Q D"],
  videos: Videos,
  weights: Weights,
  *,
  heads: int = 1,
  tile: int = 0,
  drop_rate: float = 0.3,
  key: Key[Array, ""] | None = None,
) -> Float[Array, "Q I"]:
  """Computes `similarity` with videos that `encode` has encoded."""

  def cosines(texts, items):
    (query, raw, places), (own, seeds) = texts, items
    pooled = vectors.of_pairs(query, places, own, seeds, weights, drop_rate)
    return jnp.einsum("qd,iqd->qi", unit(raw), unit(pooled))

  query = vectors.queries(text, weights, heads)
  rows = query, text, jnp.arange(text.shape[0])
  return tiled(cosines, rows, (videos, vectors.seeds(key, videos.key)), tile)


def weigh(
  text: Float[Array, "Q D"],
  frames: Float[Array, "I F D"],
  weights: Weights,
  *,
  heads: int = 1,
  valid: Bool[Array, "I F"] | None = None,
  impl: str = "auto",
) -> Float[Array, "I N Q F"]:
  """Computes the share of each frame for each text, float32; 0 without frames.

  Args:
    text: as in `pool`, as are the other arguments.
    frames: of the videos.
    weights: the parameters.
    heads: N.
    valid: True at the real frames.
    impl: one of IMPLEMENTATIONS, or "auto".
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if impl == "reference":
    return definition.reference_weigh(text, frames, weights, heads=heads, valid=valid)
  videos = encode(frames, weights, heads=heads, valid=valid)
  return vectors.shares(vectors.queries(text, weights, heads), videos)


def _refuse(**unable) -> None:
  """Raises NotImplementedError for an argument that the definition does not have."""
  for name, value in unable.items():
    if value is not None:
      raise NotImplementedError(f"reference has no {name}=: it is in xla")
