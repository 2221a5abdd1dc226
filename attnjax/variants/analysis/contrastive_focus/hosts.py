"""Attention maps of a vision-language host: of a trace, and while it generates."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from attnjax.contract.trace import Trace
from attnjax.variants.analysis.contrastive_focus import complexity, rows

HOSTS = ("fusion",)
AXES = {"maps": "BLP", "share": "BL", "entropy": "B"}
MEANINGS = {
  "maps": "weight of the last word on each patch, mean of the heads",
  "share": "sum of these weights over the picture",
  "entropy": "entropy of the weights within the picture, mean of the layers",
}


def analyse(trace: Trace, *, layers: Sequence[int] = ()) -> Mapping[str, Any]:
  """Reports the attention of each example's last word to the picture.

  Args:
    trace: of a host whose `trace.tokens` are -1 at the image.
    layers: of the entropy; all if there are none.

  Returns:
    maps, the mean over heads of the weights; share, their sums; and the entropy.
  """
  tokens = np.asarray(trace.tokens)
  real = (
    np.ones(tokens.shape, bool) if trace.ids is None else np.asarray(trace.ids) >= 0
  )
  last = tokens.shape[1] - 1 - np.argmax(real[:, ::-1], axis=1)
  maps = np.asarray(of_trace(trace, jnp.asarray(last, jnp.int32)))
  entropy = complexity.attention_entropy(maps, tuple(layers) or None)
  return {"maps": maps, "share": maps.sum(axis=-1), "entropy": entropy}


def of_trace(trace: Trace, index: Int[Array, "B"]) -> Float[Array, "B L P"]:
  """Computes the attention of one query to the picture in each layer, head means.

  Args:
    trace: of a causal host of dot products, whose `tokens` are -1 at the image.
    index: the query's place in the row, for each example.

  Raises:
    ValueError: if the images do not stand at the same places of all rows.
    NotImplementedError: for layers of another mechanism.
  """
  vis = np.asarray(trace.tokens) == -1
  if not vis.any() or (vis != vis[:1]).any():
    raise ValueError("the rows of the trace have no image at the same places")
  return _maps(trace, index, np.flatnonzero(vis[0]))


def visual_attention(
  model: Any,
  images: Float[Array, "B H W C"],
  tokens: Int[Array, "B T"],
  index: Int[Array, "B"],
) -> tuple[Float[Array, "B L P"], Float[Array, "B V"]]:
  """Returns the attention of one word to the picture, and the logits after it.

  Args:
    model: of the host "fusion".
    images: the pictures.
    tokens: words.
    index: the word's number among the words, behind the picture.
  """
  first, end = model.span(images.shape)
  trace = model.trace(images, tokens)
  logits = jnp.take_along_axis(trace.output, index[:, None, None], axis=1)[:, 0]
  return _maps(trace, index + end - first, np.arange(first, end)), logits


def generated(
  model: Any,
  images: Float[Array, "B H W C"],
  prompt: Int[np.ndarray, "T"],
  *,
  most: int = 32,
  end: int = -1,
) -> tuple[list[Float[np.ndarray, "S L P"]], list[Int[np.ndarray, "S"]]]:
  """Returns each picture's attention maps at every step, and the words generated.

  The map of a step is that of the word from which the next one is predicted; words are
  the likeliest ones.

  Args:
    model: of the host "fusion".
    images: the pictures.
    prompt: words, the same for all.
    most: the largest number of steps.
    end: the word after which an answer stops; it is a step, too.
  """
  B, size = len(images), prompt.size
  tokens = np.zeros((B, size + most), np.int32)
  tokens[:, :size] = prompt
  look = jax.jit(visual_attention)
  maps, done = [], np.zeros(B, bool)
  for step in range(most):
    index = jnp.full((B,), size + step - 1, jnp.int32)
    seen, logits = look(model, images, jnp.asarray(tokens), index)
    maps.append(np.asarray(seen))
    tokens[:, size + step] = np.asarray(logits).argmax(axis=-1)
    done |= tokens[:, size + step] == end
    if done.all():
      break
  answers = [_until(row[size : size + len(maps)], end) for row in tokens]
  return [np.stack(maps, 1)[b][: len(a)] for b, a in enumerate(answers)], answers


def _maps(trace, index, places):
  """Returns the attention of the queries `index` (B,) to some places, (B, L, P)."""
  found, ids = [], None if trace.ids is None else jnp.asarray(trace.ids)
  for heads in trace.heads:
    if heads is None or heads.q is None or heads.more:
      raise NotImplementedError("layers that are not dot-product attention")
    q, k = jnp.asarray(heads.q), jnp.asarray(heads.k)
    row = rows.attention_row(q, k, index=index, segment_ids=ids)
    found.append(row[:, places])
  return jnp.stack(found, axis=1)


def _until(words, end):
  """Returns the words up to and with the first `end`."""
  at = np.flatnonzero(words == end)
  return words[: at[0] + 1] if at.size else words
