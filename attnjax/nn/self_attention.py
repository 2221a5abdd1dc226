"""Self-attention around a layer's own mathematics: its heads, and its steps.

These are functions, not a base class; see `attnjax.contract.context` for the three
parts of a layer, `project`, `mix` and `merge`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from attnjax import attention
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.core import masks
from attnjax.core.cache import KeyValueCache
from attnjax.core.scores import Scores
from attnjax.nn import projections, unseen


def heads(
  x: Array,
  context: Context,
  project: Callable[[Array, Array], tuple[Array, Array, Array]],
  *,
  form: str,
  refuses: Mapping[str, str] = contexts.NOTHING,
) -> Heads:
  """Returns the heads of x, of an image row by row.

  Args:
    x: (B, T, D) or (B, H, W, D).
    context: what the layer was called with.
    project: (x (B, T, D), positions) to q (B, T, N, H), k and v (B, T, K, ...).
    form: of the layer.
    refuses: as in `accept`.
  """
  tokens = contexts.accept(x, context, form=form, refuses=refuses)
  q, k, v = project(tokens.rows, tokens.places)
  return Heads(q, k, v, tokens, {"segment_ids": tokens.ids})


def check_decodes(form: str) -> None:
  """Raises NotImplementedError for a form whose tokens also see later ones."""
  if form != "causal":
    raise NotImplementedError(f"form {form!r} does not decode; form 'causal' does")


def empty_cache(
  form: str, batch: int, length: int, heads: int, size: int, dtype
) -> KeyValueCache:
  """Returns a cache with room for `length` tokens of keys and values (heads, size).

  Raises:
    NotImplementedError: if tokens also see later ones, so that no step is possible.
  """
  check_decodes(form)
  return KeyValueCache.empty(batch, length, (heads, size), (heads, size), dtype)


def step(
  layer: Any, x: Array, cache: KeyValueCache, context: Context
) -> tuple[Array, KeyValueCache]:
  """Returns a causal layer's result for the T tokens after those in the cache.

  Args:
    layer: with `project`, `mix` and `merge`.
    x: (B, T, D), T >= 1 or nothing.
    cache: the keys and values before.
    context: what the step was called with.
  """
  if 0 in x.shape:
    return unseen.nothing(layer, x), cache
  start = cache.length
  heads = layer.project(x, start=start, **context)
  ids = heads.tokens.ids
  ids = jnp.zeros(x.shape[:2], jnp.int32) if ids is None else ids
  cache = cache.append(heads.k, heads.v, ids)
  seen = {"segment_ids": ids, "kv_segment_ids": cache.segment_ids, "offset": start}
  heads = dataclasses.replace(heads, k=cache.k, v=cache.v, seen=seen)
  return layer.merge(layer.mix(heads), heads), cache


def inputs(
  x: Float[Array, "B *T D"],
  project: Callable,
  *,
  form: str,
  segment_ids: Int[Array, "B T"] | None = None,
  padding: Bool[Array, "B T"] | None = None,
  positions: Num[Array, "..."] | None = None,
) -> tuple[Array, tuple[Array, Array, Array], dict[str, Any]]:
  """The tokens (B, T, D) of x, their q, k and v, and what each token sees.

  Raises:
    ValueError: if x has not the axes of the form.
    NotImplementedError: for segments, padding or positions in an image.
  """
  axes = 4 if form == "image" else 3
  if x.ndim != axes:
    raise ValueError(f"x has the shape {x.shape}; form {form!r} takes {axes} axes")
  if form == "image":
    given = {"segment_ids": segment_ids, "padding": padding, "positions": positions}
    for name, value in given.items():
      if value is not None:
        raise NotImplementedError(f"form 'image' takes no {name}")
    x = x.reshape(x.shape[0], -1, x.shape[-1])
  x, ids = unseen.blank(x, segment_ids, padding)
  positions = jnp.arange(x.shape[1]) if positions is None else positions
  seen = {"causal": form == "causal", "segment_ids": ids}
  return x, project(x, positions), seen


def whole(x: Float[Array, "B *T D"], project: Callable, mix: Callable, **options):
  """A layer's result for all of x, in the shape of x; options are those of `inputs`."""
  tokens, heads, seen = inputs(x, project, **options)
  return mix(tokens, *heads, **seen).reshape(x.shape)


def weights(
  x: Float[Array, "B *T D"], project: Callable, *, impl: str, **options
) -> Float[Array, "B N T T"]:
  """The softmax weights of q and k, float32; options are those of `inputs`."""
  _, (q, k, _), seen = inputs(x, project, **options)
  B, T, N, _ = q.shape
  mask = masks.conjunction((B, N, T, T), **seen)
  eye = projections.identity_values(k)
  return attention.attend(q, k, eye, Scores(mask), impl=impl)[0].swapaxes(1, 2)


def stepped(
  x: Float[Array, "B T D"],
  cache: KeyValueCache,
  project: Callable,
  mix: Callable,
  *,
  segment_ids: Int[Array, "B T"] | None = None,
  padding: Bool[Array, "B T"] | None = None,
) -> tuple[Float[Array, "B T D"], KeyValueCache]:
  """A causal layer's result for the T tokens after those in the cache."""
  x, ids = unseen.blank(x, segment_ids, padding)
  ids = jnp.zeros(x.shape[:2], jnp.int32) if ids is None else ids
  start = cache.length
  q, k, v = project(x, start + jnp.arange(x.shape[1]))
  cache = cache.append(k, v, ids)
  seen = {
    "causal": True,
    "offset": start,
    "segment_ids": ids,
    "kv_segment_ids": cache.segment_ids,
  }
  return mix(x, q, cache.k, cache.v, **seen), cache
