"""The vectors of queries: a language model reads an image and a text."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import check_known
from attnjax.nn import linear
from attnjax.variants.cross.composed_retrieval import definition, text
from attnjax.variants.cross.composed_retrieval.geometry import IMPLEMENTATIONS


class Adapter(nnx.Module):
  """Maps the vector of an image to the width of a language model.

  It is a linear map, the exact GELU and a linear map.
  """

  def __init__(self, image_width: int, dim: int, *, rngs: nnx.Rngs):
    self.first = linear.linear(image_width, dim, rngs=rngs)
    self.second = linear.linear(dim, dim, rngs=rngs)

  def __call__(self, image: Float[Array, "B W"]) -> Float[Array, "B D"]:
    """Returns the embeddings of images."""
    return self.second(jax.nn.gelu(self.first(image), approximate=False))


def pool_last(
  hidden: Float[Array, "B T D"],
  valid: Bool[Array, "B T"] | None = None,
  *,
  impl: str = "auto",
) -> Float[Array, "B D"]:
  """Takes the last real token of each row; 0 in a row without tokens.

  Args:
    hidden: of all tokens.
    valid: True at the real tokens, with padding before or behind them; all if None.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if impl == "reference":
    return definition.reference_pool_last(hidden, valid)
  if valid is None:
    return hidden[:, -1]
  last = hidden.shape[1] - 1 - valid[:, ::-1].argmax(axis=1)
  found = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
  return jnp.where(valid.any(axis=1)[:, None], found, 0)


def embed_tokens(
  lm: Any,
  adapter: Adapter,
  image: Float[Array, "B W"] | None,
  tokens: Int[Array, "B T"],
) -> Float[Array, "B T D"]:
  """Computes the embeddings of queries, with an image's own at its place.

  Args:
    lm: such as `attnjax.models.language.Model`, of any causal mechanism; its embed,
      embed_scale, stack and norm are used.
    adapter: of the images.
    image: their vectors; None where no query has one.
    tokens: of `compose`: -2 at the image, -1 at padding.
  """
  embedded = lm.embed_scale * lm.embed.embedding[...][jnp.maximum(tokens, 0)]
  if image is None:
    return embedded
  own = adapter(image).astype(embedded.dtype)
  return jnp.where((tokens == text.IMAGE)[..., None], own[:, None], embedded)


def embed_query(
  lm: Any,
  adapter: Adapter,
  scorer: Any,
  image: Float[Array, "B W"] | None,
  tokens: Int[Array, "B T"],
  valid: Bool[Array, "B T"] | None = None,
) -> Float[Array, "B E"]:
  """Computes the vectors of queries, of length 1.

  Args:
    lm: as in `embed_tokens`, as are all others.
    adapter: of the images.
    scorer: the Scorer, whose map of the last token it is.
    image: vectors.
    tokens: of `compose`.
    valid: True at the real tokens; by the tokens if None.
  """
  if valid is None:
    valid = tokens != text.PADDING
  hidden = lm.stack(embed_tokens(lm, adapter, image, tokens), valid=valid)
  return scorer.embed_queries(lm.norm(hidden), valid)
