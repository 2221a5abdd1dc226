"""Triplets of a reference, a modification text and a target, made of a batch."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from attnjax.contract import check_known
from attnjax.variants.cross.composed_retrieval import geometry, text
from attnjax.variants.cross.composed_retrieval.text import Templates

NEIGHBOURS = ("nearest", "random")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Triplets:
  """Holds the triplets of a batch; sample i belongs to image i.

  Attributes:
    reference: (B, D), the vectors of the synthesized references.
    text: (B, M), the tokens of the modification texts, -1 at padding.
    neighbour: (B,), the other image of each reference; -1 where there is none, and
      the reference is the image's own vector, the text its caption.
    target: (B,), the images to be found: 0, 1, ..., B - 1.
  """

  reference: Any
  text: Any
  neighbour: Any
  target: Any


def synthesize_triplets(
  v: Float[Array, "B D"],
  captions: Int[Array, "B L"],
  key: Key[Array, ""],
  templates: Templates,
  *,
  alpha: float = 0.5,
  text_rate: float = 0.75,
  neighbour: str = "nearest",
  exclude: Bool[Array, "B B"] | None = None,
  stop_gradient: bool = True,
) -> Triplets:
  """Makes a triplet of every image and its caption (arXiv:2503.19910, section 3.2).

  An image with an equal caption is no neighbour, since the text would change nothing.

  Args:
    v: of another view of each image than the target's; lengths do not matter.
    captions: tokens, -1 at padding.
    key: of texts, and of neighbours at random.
    templates: of the texts.
    alpha: how far references lie from the image towards its neighbour.
    text_rate: share of the texts that a template makes; all others are the captions.
    neighbour: "nearest", or "random", the paper's ablation.
    exclude: True at further pairs (i, j) where j is no neighbour of i.
    stop_gradient: whether no gradient goes through references into the images.

  Raises:
    ValueError: if an option is unknown or out of its range.
  """
  check_known("neighbour", neighbour, NEIGHBOURS)
  choosing, keeping, drawing = jax.random.split(key, 3)
  same = (captions[:, None] == captions[None]).all(axis=-1)
  same = same if exclude is None else same | exclude
  if neighbour == "nearest":
    near = geometry.nearest_in_batch(v, same)
  else:
    near = geometry.random_in_batch(drawing, v.shape[0], same)
  found = near >= 0
  other = jnp.where(found, near, jnp.arange(v.shape[0]))
  v = jax.lax.stop_gradient(v) if stop_gradient else v
  choice = text.choose_templates(choosing, v.shape[0], templates, text_rate)
  choice = jnp.where(found, choice, len(templates.pieces))
  some = text.some_words(keeping, captions)
  words = text.modify(captions, captions[other], some, choice, templates)
  reference = geometry.slerp(v, v[other], alpha)
  return Triplets(reference, words, near, jnp.arange(v.shape[0], dtype=jnp.int32))
