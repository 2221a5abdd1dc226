"""Text from a language model, through its caches."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax import policies
from experiments.errors import UserError
from experiments.training import step


def sample(
  model: Any,
  prompt: np.ndarray,
  length: int,
  *,
  temperature: float = 0.8,
  seed: int = 0,
  dtype: str = "float32",
  policy: Any = None,
) -> np.ndarray:
  """Draws `length` tokens after the prompt; equal seeds give equal tokens.

  Args:
    model: a language model with `init_cache` and `step`.
    prompt: (P,) tokens, P >= 1.
    length: number of tokens to add, 1 or more.
    temperature: divides the logits; 0 takes the likeliest token.
    seed: the seed of the draws.
    dtype: the type of the computation and the caches.
    policy: of the form "policy", for the tokens after the prompt; None for the whole
      cache.

  Raises:
    UserError: if the prompt is empty, the length or the temperature is out of range,
      a mechanism of the model has no step form, or the policy does not fit the model.
  """
  check(prompt, length, temperature)
  try:
    # A ValueError is the policy's here.
    jax.eval_shape(lambda m: policies.under(policy, m.init_cache(1, 1)), model)
  except (NotImplementedError, ValueError) as error:
    raise UserError(str(error)) from error
  try:
    draw = functools.partial(_sample, length=length, dtype=dtype, policy=policy)
    tokens = jax.jit(draw)(
      model, jnp.asarray(prompt)[None], jnp.float32(temperature), jax.random.key(seed)
    )
  except NotImplementedError as error:
    raise UserError(str(error)) from error
  return np.asarray(tokens)


def check(prompt: np.ndarray, length: int, temperature: float) -> None:
  """Raises UserError for a prompt, length or temperature that cannot be sampled."""
  if prompt.size == 0:
    raise UserError("the prompt is empty; give at least one character")
  if length < 1:
    raise UserError(f"length = {length}; it must be 1 or more")
  if not temperature >= 0:  # nor NaN
    raise UserError(f"temperature = {temperature}; it must be 0 or more")


def _sample(model, prompt, temperature, key, *, length, dtype, policy):
  model = step.cast(model, dtype)
  cache = model.init_cache(1, prompt.shape[1] + length, jnp.dtype(dtype))
  cache = policies.under(policy, cache)
  logits, cache = model.step(prompt, cache)

  def pick(logits, key):
    warm = logits / jnp.where(temperature > 0, temperature, 1.0)
    drawn = jax.random.categorical(key, warm, axis=-1)
    return jnp.where(temperature > 0, drawn, logits.argmax(axis=-1)).astype(jnp.int32)

  def one(carry, key):
    token, cache = carry
    logits, cache = model.step(token[:, None], cache)
    return (pick(logits[:, -1], key), cache), token[0]

  first, *rest = jax.random.split(key, length + 1)
  start = pick(logits[:, -1], first), cache
  return jax.lax.scan(one, start, jnp.stack(rest))[1]
