"""The vectors of pairs of a text and a video, and what of them one side determines."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, UInt

from attnjax.core import dropout, streams
from attnjax.core.dtypes import accumulator_dtype
from attnjax.core.exported import serializable
from attnjax.variants.cross.xpool.weights import EPSILON, Weights


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Videos:
  """Holds what of the videos depends on no text: an index for retrieval.

  Attributes:
    key: (I, F, N, H), the keys of the frames.
    value: (I, F, N, D), the values of the frames after the map of the heads' outputs.
    valid: (I, F), True at the real frames.
  """

  key: Any
  value: Any
  valid: Any


def encode(
  frames: Float[Array, "I F D"],
  weights: Weights,
  *,
  heads: int = 1,
  valid: Bool[Array, "I F"] | None = None,
) -> Videos:
  """Computes the keys of frames, and their values after the map of the heads' outputs.

  sum_f A[f] v[f] Wo = sum_f A[f] (v[f] Wo) saves a product with Wo for each pair.
  """
  D = width(frames, weights, heads)
  kind = jnp.result_type(frames, weights.key)
  x = norm(streams.cleared(frames, valid), weights, 0).astype(kind)
  k = product("ifd,de->ife", x, weights.key) + weights.key_bias
  v = product("ifd,de->ife", x, weights.value) + weights.value_bias
  k, v = (y.astype(kind).reshape(*y.shape[:2], heads, D // heads) for y in (k, v))
  out = weights.out.reshape(heads, D // heads, D)
  value = product("ifnh,nhd->ifnd", v, out).astype(kind)
  real = jnp.ones(frames.shape[:2], bool) if valid is None else valid
  return Videos(k, value, real)


def queries(text: Float[Array, "Q D"], weights: Weights, heads: int) -> Array:
  """Computes the queries (Q, N, H) of texts."""
  D = width(text, weights, heads)
  kind = jnp.result_type(text, weights.query)
  x = norm(text, weights, 0).astype(kind)
  q = product("qd,de->qe", x, weights.query) + weights.query_bias
  return q.astype(kind).reshape(-1, heads, D // heads)


def shares(query: Float[Array, "Q N H"], videos: Videos) -> Float[Array, "I N Q F"]:
  """Computes the softmax over a video's frames, 0 where there are none."""
  score = product("qnh,ifnh->inqf", query, videos.key) * query.shape[-1] ** -0.5
  real = videos.valid[:, None, None]
  score = jnp.where(real, score, -jnp.inf)
  top = jax.lax.stop_gradient(score.max(axis=-1, keepdims=True, initial=-jnp.inf))
  share = jnp.where(real, jnp.exp(score - jnp.where(top == -jnp.inf, 0, top)), 0)
  total = share.sum(axis=-1, keepdims=True)
  return share / jnp.where(total > 0, total, 1)


def of_pairs(
  query: Float[Array, "Q N H"],
  places: Int[Array, "Q"],
  videos: Videos,
  seeds: UInt[Array, "I"] | None,
  weights: Weights,
  rate: float,
) -> Float[Array, "I Q D"]:
  """Computes LN3(o + dropout(o W + b)) of o = LN2(sum of frames), in float32.

  Args:
    query: of the texts.
    places: the numbers of the texts, for dropout.
    videos: encoded frames.
    seeds: of each video's dropout; None drops nothing.
    weights: the parameters.
    rate: of the dropout.
  """
  share = shares(query, videos).astype(videos.value.dtype)
  pooled = product("inqf,ifnd->iqd", share, videos.value) + weights.out_bias
  pooled = norm(pooled, weights, 1)
  kind = jnp.result_type(query, weights.linear)
  branch = product("iqd,de->iqe", pooled.astype(kind), weights.linear)
  branch = branch + weights.linear_bias
  if seeds is not None and rate:
    seed, channel = seeds[:, None, None], jnp.arange(branch.shape[2])
    branch = branch * dropout.keep(seed, places[:, None], channel, rate)
  return norm(pooled + branch, weights, 2)


def seeds(key: Key[Array, ""] | None, items: Array) -> UInt[Array, "I"] | None:
  """Returns the seed of each item's dropout, whatever tile the item is in."""
  if key is None:
    return None
  return jax.random.bits(key, (items.shape[0],), jnp.uint32)


def norm(x: Float[Array, "*R D"], weights: Weights, number: int) -> Array:
  """Computes one of the layer norms, in float32."""
  x = x.astype(accumulator_dtype(x))
  x = x - x.mean(axis=-1, keepdims=True)
  x = x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + EPSILON)
  return x * weights.norm_scale[number] + weights.norm_bias[number]


def product(text: str, x: Array, y: Array) -> Array:
  """Computes a product of arrays in their common type, added up in float32."""
  kind = jnp.result_type(x, y)
  wide = jnp.promote_types(kind, jnp.float32)
  return jnp.einsum(text, x.astype(kind), y.astype(kind), preferred_element_type=wide)


def width(x: Float[Array, "*R D"], weights: Weights, heads: int) -> int:
  """Returns D; ValueError if the weights or the heads do not fit."""
  D = weights.query.shape[0]
  if x.shape[-1] != D:
    raise ValueError(f"vectors of {x.shape[-1]} and weights of {D}: both have D")
  if heads < 1 or D % heads:
    raise ValueError(f"heads = {heads}; it must divide D = {D}")
  return D
