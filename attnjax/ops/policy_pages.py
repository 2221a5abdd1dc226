"""Decoding by kernels that read chosen pages where they lie in a cache.

A policy that chooses pages says so by `Choice.page`, and a layer whose `mix` is softmax
attention alone by an attribute `softmax_alone`. Then the kernels of attention to pages
compute a step on TPUs and GPUs, if a cache has room for whole pages, at run time only
where each page lies in the cache as it would without padding, and a row's document
begins with a page of the cache. Other pages are gathered.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from attnjax import backends
from attnjax.core.policies import Choice, PolicyCache


def mixed(
  layer: Any,
  q: Array,
  ids: Int[Array, "B 1"],
  cache: PolicyCache,
  choice: Choice,
  gather: Callable[[], Array],
) -> Array:
  """Returns a layer's mix of what is chosen for one token, (B, 1, N, V).

  Args:
    layer: whose chosen keys are "gathered".
    q: (B, 1, N, H).
    ids: its document; a token of none, which is padding, sees nothing.
    cache: after the new token.
    choice: for it.
    gather: returns the mix of copies of the chosen keys.
  """
  alone, page = getattr(layer, "softmax_alone", False), choice.page
  if not alone or page == 1 or cache.room % page or 0 in choice.places.shape:
    return gather()
  keys, values = (_stacked(x, cache.layer) for x in (cache.keys, cache.values))
  slots, counts, whole = pages(cache, choice)
  run = backends.paged_cache(layer.impl, q[:, 0], keys, slots, page=page)
  if run is None:
    return gather()
  counts = jnp.where(ids[..., None] >= 0, counts, 0)
  number = jnp.int32(0) if cache.layer is None else cache.layer
  data = number, slots, counts
  return jax.lax.cond(whole, lambda: run(q[:, 0], keys, values, *data)[:, None], gather)


def _stacked(x: Array, layer: Any) -> Array:
  return x[None] if layer is None else x


def pages(cache: PolicyCache, choice: Choice) -> tuple[Array, Array, Array]:
  """Returns (first slots, numbers of tokens, whether all pages lie whole in the cache).

  Args:
    cache: after the new token.
    choice: whose places are runs of `page`.
  """
  (B, G, M), page = choice.places.shape, choice.page
  places = jnp.minimum(choice.places, cache.room - 1)
  slots = jnp.take_along_axis(cache.slots[:, None], places, axis=2)
  slots, real = (x.reshape(B, G, M // page, page) for x in (slots, choice.real))
  counts, first = real.sum(axis=3, dtype=jnp.int32), slots[..., 0]
  place = jnp.arange(page)
  begins = (real == (place < counts[..., None])).all(axis=3)
  follows = ((slots == first[..., None] + place) | ~real).all(axis=3)
  fine = begins & follows & (first % page == 0) | (counts == 0)
  return first, counts, fine.all()
