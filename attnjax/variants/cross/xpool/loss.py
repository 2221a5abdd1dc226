"""The symmetric InfoNCE loss of CLIP."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from attnjax.contract import check_known
from attnjax.core.dtypes import accumulator_dtype
from attnjax.variants.cross.xpool import definition
from attnjax.variants.cross.xpool.pooling import IMPLEMENTATIONS


def clip_loss(
  similarity: Float[Array, "Q I"], log_scale: Float[Array, ""], *, impl: str = "auto"
) -> Float[Array, ""]:
  """Computes the mean of two cross entropies, of a text's video and a video's text.

  Text n belongs to video n; all others of the matrix are wrong.

  Args:
    similarity: cosines (Q, Q) of texts and videos.
    log_scale: the log of what they are multiplied by.
    impl: one of IMPLEMENTATIONS, or "auto".

  Raises:
    ValueError: if the matrix is not square or `impl` is unknown.
  """
  check_known("impl", impl, ("auto", *IMPLEMENTATIONS))
  if similarity.shape[0] != similarity.shape[1]:
    raise ValueError(
      f"{similarity.shape[0]} texts and {similarity.shape[1]} videos: text n belongs"
      " to video n"
    )
  if impl == "reference":
    return definition.reference_clip_loss(similarity, log_scale)
  logits = similarity.astype(accumulator_dtype(similarity)) * jnp.exp(log_scale)
  rows, columns = (jax.nn.log_softmax(logits, axis=axis) for axis in (1, 0))
  return -jnp.mean(jnp.diagonal(rows) + jnp.diagonal(columns)) / 2
