"""Decoding under a cache policy: the policy by its name, and logits of given rows.

A policy's name is that of a system of the form "policy", its options after a colon:

  full                             no policy: every query sees all keys
  delta                            the defaults of the system
  delta:pages=64,full_layers=0+2   its options; the elements of a tuple between +
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from attnjax import contract, policies
from attnjax.contract import check_known

FULL = "full"


def names() -> tuple[str, ...]:
  """Returns the names of all policies."""
  return FULL, *filter(_chooses, contract.systems())


def _chooses(slug: str) -> bool:
  return slug in contract.systems() and "policy" in contract.load(slug).FORMS


def policy(text: str) -> Any:
  """Returns the policy of a text, None for "full".

  Raises:
    ValueError: for an unknown name, option or value.
  """
  slug, _, options = text.partition(":")
  if slug != FULL and not _chooses(slug):
    check_known("policy", slug, names())
  if slug == FULL:
    if options:
      raise ValueError(f"policy {FULL!r} has no options: {options!r}")
    return None
  kind = contract.load(slug).Policy
  defaults = {field.name: field.default for field in dataclasses.fields(kind)}
  given = {}
  for part in filter(None, options.split(",")):
    name, _, value = part.partition("=")
    check_known(f"option of {slug}", name, defaults)
    given[name] = _value(name, value, defaults[name])
  return kind(**given)


def _value(name: str, text: str, default: Any) -> Any:
  try:
    if isinstance(default, tuple):
      return tuple(int(part) for part in filter(None, text.split("+")))
    if isinstance(default, bool):
      return {"true": True, "false": False}[text.lower()]
    return type(default)(text)
  except (ValueError, KeyError):
    kind = type(default).__name__
    raise ValueError(f"{name} = {text!r} is no {kind}, as {default!r} is") from None


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
