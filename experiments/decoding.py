"""Decoding under a cache policy: the policy by its name, and logits of given rows.

A policy's name is that of a system of the form "policy", its options after a colon. Of
a system with several policies it is <system>.<policy>, or the policy's name alone if no
system and no other policy has it:

  full                             no policy: every query sees all keys
  delta                            the defaults of the system
  delta:pages=64,full_layers=0+2   its options; the elements of a tuple between +
  sparse_frontier.quest            one of a system's policies
  quest:budget=64                  likewise
"""

import collections
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax import contract, policies
from attnjax.contract import check_known
from attnjax.contract.options import read

FULL = "full"


def names() -> tuple[str, ...]:
  """Returns the names of all policies."""
  return FULL, *_known()


def _known() -> dict[str, type]:
  """Returns all policies by their names, short ones that are unique among them."""
  found: dict[str, type] = {}
  for slug in contract.systems():
    found |= _of_system(slug)
  short = collections.Counter(name.rpartition(".")[2] for name in found)
  taken = {FULL, *contract.systems()}
  for name, kind in tuple(found.items()):
    last = name.rpartition(".")[2]
    if short[last] == 1 and last not in taken:
      found[last] = kind
  return found


def _of_system(slug: str) -> dict[str, type]:
  """Returns the policies of a system, none if it is of another form or unknown."""
  if slug not in contract.systems():
    return {}
  module = contract.load(slug)
  kinds: Any = contract.form("policy").kinds
  return kinds(slug, module) if "policy" in module.FORMS else {}


def policy(text: str) -> Any:
  """Returns the policy of a text, None for "full".

  Raises:
    ValueError: for an unknown name, option or value.
  """
  name, _, options = text.partition(":")
  if name == FULL:
    if options:
      raise ValueError(f"policy {FULL!r} has no options: {options!r}")
    return None
  known = _of_system(name.partition(".")[0])  # few policies need all systems
  if name not in known:
    known = _known()
    check_known("policy", name, (FULL, *known))
  kind = known[name]
  defaults = {field.name: field.default for field in dataclasses.fields(kind)}
  return kind(**read(name, options, defaults))


def logits(
  model: Any, tokens: Int[Array, "B T"], *, prompt: int, policy: Any, dtype=jnp.float32
) -> Float[Array, "B T vocab"]:
  """Returns the logits of rows, the prompt in one step and the rest token by token.

  Args:
    model: a language model with `init_cache` and `step`.
    tokens: the rows.
    prompt: their first tokens, 0 < prompt <= T, whose queries see everything.
    policy: for the tokens after it; None for the whole cache.
    dtype: of the caches.
  """
  B, T = tokens.shape
  if not 0 < prompt <= T:
    raise ValueError(f"prompt = {prompt} of rows of {T} tokens; it is 1 to {T}")
  cache = policies.under(policy, model.init_cache(B, T, dtype))
  first, cache = model.step(tokens[:, :prompt], cache)

  def one(cache, token):
    out, cache = model.step(token[:, None], cache)
    return cache, out[:, 0]

  rest = jax.lax.scan(one, cache, tokens[:, prompt:].T)[1]
  return jnp.concatenate([first, rest.swapaxes(0, 1)], axis=1)


def greedy(
  model: Any,
  tokens: Int[Array, "B G"],
  length: int,
  *,
  prompt: int,
  policy: Any,
  dtype=jnp.float32,
) -> Int[Array, "B {length}"]:
  """Returns the likeliest `length` tokens after given ones, each from those before it.

  Args:
    model: a language model with `init_cache` and `step`.
    tokens: the given ones.
    length: tokens to add.
    prompt: the first tokens, 0 < prompt < G, whose queries see everything; the other
      given ones are decoded.
    policy: for the tokens after the prompt; None for the whole cache.
    dtype: of the caches.
  """
  B, G = tokens.shape
  if not 0 < prompt < G:
    raise ValueError(f"prompt = {prompt} of {G} given tokens; it is 1 to {G - 1}")
  cache = policies.under(policy, model.init_cache(B, G + length, dtype))
  _, cache = model.step(tokens[:, :prompt], cache)

  def one(cache, token):
    out, cache = model.step(token[:, None], cache)
    return cache, out[:, -1].argmax(axis=-1).astype(tokens.dtype)

  def further(carry, _):
    cache, token = one(*carry)
    return (cache, token), token

  cache, found = jax.lax.scan(one, cache, tokens[:, prompt:].T)
  first = found[-1]
  _, rest = jax.lax.scan(further, (cache, first), length=length - 1)
  return jnp.concatenate([first[None], rest]).T
