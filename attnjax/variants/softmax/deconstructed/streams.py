"""The fixed sequences whose hidden states give queries and keys."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def noise(length: int, dim: int, seed: int, scale: float) -> Float[Array, "1 L D"]:
  """Draws scale N(0, 1) for the places 0, 1, ...; a longer sequence begins alike."""
  keys = _keys(length, seed)
  draw = jax.vmap(lambda key: jax.random.normal(key, (dim,)))
  return scale * draw(keys)[None]


def tokens(
  length: int, vocab: int, seed: int, given: Sequence[int] = ()
) -> Int[Array, "L"]:
  """Returns the first tokens of the fixed sequence.

  Args:
    length: L.
    vocab: number of tokens that there are.
    seed: of a sequence that is drawn: every token is as likely.
    given: the sequence, where it is not drawn.

  Raises:
    ValueError: if the given sequence is too short, or a token is none of `vocab`.
  """
  if not given:
    draw = jax.vmap(functools.partial(jax.random.randint, shape=(), minval=0))
    return draw(_keys(length, seed), maxval=jnp.full(length, vocab))
  if length > len(given):
    raise ValueError(f"{length} tokens; fixed_tokens has {len(given)}")
  if not 0 <= min(given) <= max(given) < vocab:
    raise ValueError(f"fixed_tokens from {min(given)} to {max(given)}: of {vocab}")
  return jnp.asarray(given[:length], jnp.int32)


def _keys(length, seed):
  return jax.vmap(functools.partial(jax.random.fold_in, jax.random.key(seed)))(
    jnp.arange(length)
  )
