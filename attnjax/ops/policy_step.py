"""Decoding under a cache policy: one step of any layer with a cache of keys.

A layer says how it takes chosen keys, by an attribute `chosen_keys`:

  "gathered"  its `mix` reads no places of keys and passes `heads.seen`, in which there
              may be a `mask`, to a function that takes one: it gets the chosen keys
              alone, and the cost of a step falls with them
  "masked"    its `mix` sees all keys at their places, those not chosen as padding; all
              heads share a choice

A layer without it refuses. A policy that chooses in the prompt's step, by `prefill`,
gives a `mask` of the algebra there, which "gathered" layers take and others refuse;
`attnjax.ops.policy_prefill` makes it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from attnjax.contract.context import Context, Heads
from attnjax.core import policies
from attnjax.core.cache import poison
from attnjax.core.policies import Choice, PolicyCache
from attnjax.ops import policy_pages, policy_prefill

# Choices of up to so many keys are not cut to fewer.
LEAST = 512
_BY_TOKEN = ("segment_ids", "valid", "positions")


def step(
  layer: Any, x: Array, cache: PolicyCache, context: Context
) -> tuple[Array, PolicyCache]:
  """Returns a layer's outputs for the next T tokens, and the cache after them.

  Queries of the prompt see all keys, or what `prefill` says. Later ones see what the
  policy chooses for each of them, so that any cut of their stream gives equal results.

  Args:
    layer: with `project`, `mix`, `merge` and `chosen_keys`.
    x: (B, T, D), T >= 1.
    cache: before these tokens.
    context: of the step.

  Raises:
    NotImplementedError: if the layer does not take chosen keys, or not in the prompt.
  """
  _check(layer, cache.policy)
  T, B, L = x.shape[1], *cache.slots.shape
  alone = cache.shared is None
  if alone:
    shared = policies.of_tokens(cache.policy.start(B, L), T)
    cache = dataclasses.replace(cache, shared=shared)
  first = jnp.where(cache.prompt < 0, T, cache.prompt).astype(jnp.int32)
  cache = dataclasses.replace(cache, prompt=first)
  if T == 1:
    y, cache = _one(layer, x, cache, context)
  else:
    y, cache = jax.lax.cond(
      cache.length + T <= first,
      lambda x, cache: _whole(layer, x, cache, context),
      lambda x, cache: _each(layer, x, cache, context),
      *(x, cache),
    )
  return y, dataclasses.replace(cache, shared=None) if alone else cache


def _check(layer, policy) -> None:
  how = getattr(layer, "chosen_keys", None)
  if how not in ("gathered", "masked"):
    raise NotImplementedError(
      f"{type(layer).__module__} does not say that it takes chosen keys: it has no"
      " `chosen_keys`, see attnjax.ops.policy_step"
    )
  if policy_prefill.chooses(policy) and how != "gathered":
    raise NotImplementedError(
      f"{type(policy).__module__} chooses keys of the prompt for each head; the layer"
      f" {type(layer).__module__} takes none there: its chosen_keys are {how!r}"
    )


def _appended(layer, x, cache, context):
  """Returns the heads of new tokens, their ids, the cache with them, and its past."""
  heads = layer.project(x, start=cache.length, **context)
  ids = heads.tokens.ids
  ids = jnp.zeros(x.shape[:2], jnp.int32) if ids is None else ids
  cache, past = cache.appended(heads.q, heads.k, heads.v, ids)
  return heads, ids, cache, past


def _all(layer, heads: Heads, ids, start, tokens) -> Array:
  """Returns the mix of all keys, as without a policy."""
  seen = {"segment_ids": ids, "kv_segment_ids": tokens.segment_ids, "offset": start}
  return layer.mix(dataclasses.replace(heads, k=tokens.k, v=tokens.v, seen=seen))


def _whole(layer, x, cache, context):
  """Takes a step of the prompt."""
  start = cache.length
  heads, ids, cache, _ = _appended(layer, x, cache, context)
  if policy_prefill.chooses(cache.policy):
    return layer.merge(_selected(layer, heads, cache), heads), cache
  return layer.merge(_all(layer, heads, ids, start, cache), heads), cache


def _selected(layer, heads: Heads, cache) -> Array:
  """Returns the mix of the keys of a prompt that its policy chooses."""
  T, tokens = heads.q.shape[1], heads.tokens
  k, v = cache.k[:, :T], cache.v[:, :T]

  def mix(mask):
    own = {"segment_ids": tokens.ids, "kv_segment_ids": tokens.ids}
    seen = own | {"offset": 0, "mask": mask}
    return layer.mix(dataclasses.replace(heads, k=k, v=v, seen=seen))

  given = cache.policy, heads.q, k, tokens.ids, tokens.index
  return policy_prefill.mixed(*given, mix)


def _each(layer, x, cache, context):
  """Takes a step for each token."""
  by_token = {n: context[n] for n in _BY_TOKEN if context.get(n) is not None}
  rest = {n: v for n, v in context.items() if n not in by_token}
  parts = (
    x.swapaxes(0, 1)[:, :, None],
    {
      name: jnp.moveaxis(jnp.asarray(y), -1, 0)[..., None]
      for name, y in by_token.items()
    },
  )

  def one(cache, part):
    x, own, shared = part
    cache = dataclasses.replace(cache, shared=jax.tree.map(lambda y: y[None], shared))
    y, cache = _one(layer, x, cache, {**rest, **own})
    after = jax.tree.map(lambda y: y[0], cache.shared)
    return dataclasses.replace(cache, shared=None), (y[:, 0], after)

  bare = dataclasses.replace(cache, shared=None)
  cache, (y, shared) = jax.lax.scan(one, bare, (*parts, cache.shared))
  return y.swapaxes(0, 1), dataclasses.replace(cache, shared=shared)


def _one(layer, x, cache, context):
  """Takes a step of one token, with what the policy chooses for it."""
  start = cache.length
  heads, ids, cache, past = _appended(layer, x, cache, context)
  before = cache.own, jax.tree.map(lambda y: y[0], cache.shared)
  index = heads.tokens.index
  choice, *after = cache.policy.choose(heads.q[:, 0], past, *before, index)
  asked = start >= cache.prompt
  own, shared = jax.tree.map(lambda a, b: jnp.where(asked, a, b), tuple(after), before)
  N, G = heads.q.shape[2], choice.places.shape[1]
  gather = layer.chosen_keys == "gathered"
  if G > 1 and not gather:
    raise NotImplementedError(
      f"{type(cache.policy).__module__} chooses for each head; the layer"
      f" {type(layer).__module__} takes one choice for all heads"
    )

  def mixed(choice):
    k, v, seen = _seen(cache, choice, ids, N, gather)
    return layer.mix(dataclasses.replace(heads, k=k, v=v, seen=seen))

  def some(_):
    if not gather:
      return mixed(choice)
    few = functools.partial(_of_few, choice, mixed)
    return policy_pages.mixed(layer, heads.q, ids, cache, choice, few)

  dense = jnp.asarray(choice.dense) | ~asked
  out = jax.lax.cond(dense, lambda _: _all(layer, heads, ids, start, cache), some, None)
  y = layer.merge(poison(out, start >= cache.slots.shape[1]), heads)
  shared = jax.tree.map(lambda y: y[None], shared)
  return y, dataclasses.replace(cache, own=own, shared=shared)


def _of_few(choice: Choice, mix: Callable[[Choice], Array]) -> Array:
  """Returns the mix of a choice, cut to the least of a few sizes that holds it."""
  sizes = [choice.places.shape[2]]
  while choice.upto is not None and sizes[-1] > LEAST:
    sizes.append(sizes[-1] // 2)

  def cut(size):
    fewer = {"places": choice.places[..., :size], "real": choice.real[..., :size]}
    return functools.partial(mix, dataclasses.replace(choice, **fewer))

  if len(sizes) == 1:
    return mix(choice)
  fits = jnp.asarray(sizes) >= choice.upto
  return jax.lax.switch(jnp.maximum(fits.sum() - 1, 0), [cut(size) for size in sizes])


def _seen(
  cache: PolicyCache, choice: Choice, ids: Int[Array, "B 1"], heads: int, gather: bool
) -> tuple[Array, Array, dict[str, Any]]:
  """Returns the keys, the values and who sees them, for a choice.

  Args:
    cache: after the new token.
    choice: for it.
    ids: its document.
    heads: N.
    gather: whether the chosen keys alone are returned, (B, M, G|K, H); else all keys
      at their slots, where those that are not chosen are padding.
  """
  tokens, (B, G, M) = cache, choice.places.shape
  L, K = tokens.room, tokens.keys.shape[-2]
  places = jnp.minimum(choice.places, L - 1)
  slots = jnp.take_along_axis(cache.slots[:, None], places, axis=2)
  rows = jnp.arange(B)[:, None, None]
  if not gather:
    where = jnp.where(choice.real, slots, L)[:, 0]
    own = jnp.full((B, L), -1, jnp.int32).at[rows[:, 0], where].set(ids, mode="drop")
    given = {"kv_segment_ids": own, "offset": tokens.length - 1}
    return tokens.k, tokens.v, {"segment_ids": ids} | given
  if G == 1:
    k, v = tokens.at(rows[:, 0], slots[:, 0])
    own = jnp.where(choice.real[:, 0], ids, -1)
    given = {"kv_segment_ids": own, "offset": M - 1}
    return k, v, {"segment_ids": ids} | given
  head = (jnp.arange(G) * K // G)[:, None]
  k, v = (x.swapaxes(1, 2) for x in tokens.at(rows, slots, head))
  mask = jnp.repeat(choice.real[:, :, None], heads // G, axis=1)
  given = {"kv_segment_ids": jnp.broadcast_to(ids, (B, M)), "offset": M - 1}
  return k, v, {"segment_ids": ids, "mask": mask} | given
