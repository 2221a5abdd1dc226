"""The form "causal": as "sequence", but token t sees tokens <= t only; language.

  layer(x, *, segment_ids=None, valid=None, positions=None, index=0) -> y

with the arguments of `attnjax.contract.forms.sequence`. Causal layers also decode, by
whole chunks or token by token:

  cache = layer.init_cache(batch, length, dtype)
  y, cache = layer.step(x, cache, *, segment_ids=None, valid=None, index=0)

Steps over any cut of a row give the results of the whole row. No examples or no tokens
leave a cache unchanged. A cache holds arrays of floats and integers.
"""

import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract.forms import sequence
from attnjax.contract.subject import (
  CHANGED,
  DOCUMENTS,
  LENGTH,
  ROW,
  STARTS,
  Subject,
  close,
  require,
)


class Layer(sequence.Layer, Protocol):
  """A causal layer, made by `Layer(dim, *, form, rngs, **hyper-parameters)`."""

  def init_cache(self, batch: int, length: int, dtype: Any = jnp.float32) -> Any:
    """Returns the cache before the first token, with room for `length` tokens."""
    ...

  def step(
    self,
    x: Float[Array, "B T D"],
    cache: Any,
    *,
    segment_ids: Int[Array, "B T"] | None = None,
    valid: Bool[Array, "B T"] | None = None,
    index: Int[Array, ""] | int = 0,
  ) -> tuple[Float[Array, "B T D"], Any]:
    """Returns the results of the next T tokens, and the cache after them."""
    ...


def sees_no_future(subject: Subject) -> None:
  """Checks that a late change of a document leaves the results before it."""
  first, _, changed = subject.plain["y"]
  close(changed[:CHANGED], first[:CHANGED])
  after = jnp.abs(changed[CHANGED:] - first[CHANGED:]).max()
  require(after > 1e-3, "what changes changes nothing")


def decodes_by_any_cut(subject: Subject) -> None:
  """Checks that decoding by token and by chunk gives the results of the whole row."""
  for cuts in ([1] * LENGTH, [8, 1, 1, 8, 1, 1, 1]):
    close(decoded(subject, subject.x, cuts), subject.plain["y"], f"cuts {cuts}")


def decodes_packed_and_padded_rows(subject: Subject) -> None:
  """Checks that decoding skips padding, whatever it holds, and separates documents."""
  real, x = subject.real, subject.padded([jnp.nan, jnp.inf, jnp.nan])
  # The first row holds all three documents.
  x, real = x.at[0].set(subject.x.reshape(ROW, subject.dim)), real.at[0].set(True)
  ids = jnp.zeros(real.shape, jnp.int32).at[0].set(jnp.arange(ROW) // LENGTH + 2)
  context = {"segment_ids": ids, "valid": real}
  context = {n: v for n, v in context.items() if n not in subject.refused}
  got = decoded(subject, x, [8, 1, 8, 8, 8, 1, 8, 8, 1, 8, *[1] * 4], **context)
  want = subject.plain["y"]
  for row, start in list(enumerate(STARTS))[1:]:
    close(got[row, start : start + LENGTH], want[row], f"row {row}")
  if "segment_ids" not in subject.refused:
    close(got[0].reshape(want.shape), want, "packed documents")


def keeps_a_cache_of_arrays(subject: Subject) -> None:
  """Checks that a cache's arrays keep their types, whatever is stored in them."""
  cache = subject.layer.init_cache(DOCUMENTS, LENGTH, jnp.bfloat16)
  require(jax.tree.leaves(cache), "the cache is empty")
  _, after = jax.eval_shape(subject.layer.step, subject.x[:, :3], cache)
  kinds = [[(x.shape, x.dtype) for x in jax.tree.leaves(t)] for t in (after, cache)]
  require(kinds[0] == kinds[1], f"{kinds[0]} after {kinds[1]}")


def decoded(subject: Subject, x, cuts, **context):
  """Returns the results of steps over x (3, T, D), of the lengths of `cuts`."""
  run = _step(subject)
  cache, out, at = subject.layer.init_cache(len(x), x.shape[1], jnp.float32), [], 0
  for size in cuts:
    part = {name: value[:, at : at + size] for name, value in context.items()}
    y, cache = run(subject.layer, x[:, at : at + size], cache, part)
    out.append(y)
    at += size
  require(at == x.shape[1], f"cuts of {at} tokens for {x.shape[1]}")
  return jnp.concatenate(out, axis=1)


@functools.cache
def _step(subject: Subject):
  return jax.jit(lambda layer, x, cache, part: layer.step(x, cache, **part))


CHECKS = (
  *sequence.CHECKS,
  sees_no_future,
  decodes_by_any_cut,
  decodes_packed_and_padded_rows,
  keeps_a_cache_of_arrays,
)
