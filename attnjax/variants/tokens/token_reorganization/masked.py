"""Reorganisation with static shapes: a mask says which tokens are left."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from attnjax.contract import check_known
from attnjax.core import select
from attnjax.core.dtypes import accumulator_dtype
from attnjax.nn import transformer
from attnjax.nn.backbone import Classifier
from attnjax.variants.tokens.token_reorganization.definition import (
  reference_reorganize_masked,
)
from attnjax.variants.tokens.token_reorganization.reorganize import (
  IMPLEMENTATIONS,
  fused,
)


def reorganize_masked(
  x: Float[Array, "B T D"],
  scores: Float[Array, "B T"],
  *,
  left: Bool[Array, "B T"],
  count: Int[Array, ""] | int,
  slot: int,
  fuse: bool = True,
  impl: str = "auto",
) -> tuple[Float[Array, "B T D"], Bool[Array, "B T"]]:
  """Does what `reorganize` does, with the number of tokens that stay as an array.

  Attention must not see tokens that are not left; other parts may compute them, to no
  effect. Where all tokens stay there is no fused one.

  Args:
    x: tokens, the class token first, and a free place for the fused token.
    scores: of the tokens.
    left: which tokens are there; the class token always is.
    count: M, how many of the others stay; it may be traced.
    slot: the free place; no token is there before.
    fuse: whether there is a fused token.
    impl: one of IMPLEMENTATIONS, or "auto", which is "xla".

  Returns:
    (the tokens, which of them are left).

  Raises:
    ValueError: if `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if impl == "reference":
    given = {"left": left, "count": count, "slot": slot, "fuse": fuse}
    return reference_reorganize_masked(x, scores, **given)
  place = jnp.arange(x.shape[1])
  ranked = left & (place > 0)
  kept = select.kept(scores, ranked, count)
  others = ranked & ~kept
  left = kept | (left & (place == 0))
  if not fuse:
    return x, left
  token = fused(x, jnp.where(others, scores, 0))
  some = (place == slot) & others.any(axis=1, keepdims=True)
  return jnp.where(some[..., None], token, x), left | some


def masked_logits(
  model: Classifier,
  images: Float[Array, "B H W C"],
  counts: Int[Array, "P"],
  *,
  key: Key[Array, ""] | None = None,
) -> Float[Array, "B classes"]:
  """Returns the logits of a `Model` whose places keep so many tokens.

  It is the network with other keep rates, which may change from step to step in one
  program, at the cost of all tokens: for training, see `keep_schedule`.

  Args:
    model: of `Model`.
    images: as in its call.
    counts: for each of the model's places, how many tokens behind the class token stay,
      as `count_kept` has them; fused tokens of earlier places count.
    key: turns dropping of residuals on.

  Raises:
    ValueError: if there is not one count for each place.
  """
  mark, *blocks = model.stages.stages[0].sequence
  places = [i for i, block in enumerate(blocks) if block.keep_ratio is not None]
  if counts.shape != (len(places),):
    raise ValueError(f"counts {counts.shape}: one for each of the places {places}")
  x = mark(model.stem(images)).rows
  tokens = x.shape[1]
  x = jnp.pad(x, ((0, 0), (0, len(places)), (0, 0)))
  left = jnp.broadcast_to(jnp.arange(x.shape[1]) < tokens, x.shape[:2])
  for i, (block, own) in enumerate(zip(blocks, _keys(key, len(blocks)))):
    first, second = (None, None) if own is None else jax.random.split(own)
    heads = block.mixer.project(block.norm(x), valid=left, index=i)
    x = block.attended(x, heads, first)
    if i in places:
      at = places.index(i)
      given = {"left": left, "slot": tokens + at, "fuse": block.fuse}
      scores = block.scores(heads, left)
      x, left = reorganize_masked(x, scores, count=counts[at], **given)
    x = block.fed(x, second)
  logits = model.head(model.stages.norms[0].part(x[:, 0]))
  return logits.astype(accumulator_dtype(logits))


def _keys(key: Any, number: int) -> list[Any]:
  """Returns the keys that the network's only stage gives to its blocks."""
  own = None if key is None else jax.random.fold_in(key, 0)
  return transformer.keys(own, 1 + number)[1:]
