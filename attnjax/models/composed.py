"""A language model that composes queries of an image and a text, to find an image.

Chuong Huynh et al. CoLLM: A Large Language Model for Composed Image Retrieval. CVPR
2025. arXiv:2503.19910, sections 3.2 and 3.3. Images are vectors that an encoder has
made. Among the mechanisms one has the form "pairs" and makes triplets of a batch, as
`attnjax.variants.cross.composed_retrieval` does; all others are causal, and in turn
those of the layers of the language model, see `attnjax.models.language`.

A batch of training holds images, other views of them and captions. By each of `kinds`
queries are made for the same images: of references, of captions, and of references with
modification texts. Without `synthesize` it holds triplets, and references and texts
are its own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from attnjax.contract import check_known
from attnjax.core.units import unit
from attnjax.models import language
from attnjax.nn import linear
from attnjax.nn.temperature import Temperature

FORMS = ("pairs", "causal")
TAKES = "image_change"  # what its data sets hold
SIZES = ("vocab", "image_width")  # what Model is told of them


def inputs(batch: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
  """Returns the arguments and options of Model's call for a batch."""
  return tuple(batch[n] for n in ("image", "reference", "caption", "text")), {}


class Model(nnx.Module):
  """images, references (B, W), captions and texts (B, L) -> logits (kinds, B, B).

  The last words of the vocabulary are the system's WORDS, of templates and prompts.
  """

  def __init__(
    self,
    builds: Sequence[Callable],
    *,
    vocab: int,
    image_width: int,
    dim: int = 64,
    depth: int = 2,
    mlp_ratio: float = 8 / 3,  # 0: no MLP
    kinds: str = "image,text,composed",  # of queries that are trained, of equal weight
    synthesize: bool = True,  # triplets in training; if not, a batch holds triplets
    alpha: float = 0.5,  # how far references lie towards the neighbour
    text_rate: float = 0.75,  # of texts by templates; all others are captions
    templates: tuple[str, ...] = (),  # of the texts; (): the system's
    neighbour: str = "nearest",  # or "random"
    instruct: bool = True,  # whether prompts have words
    tune_images: bool = False,  # whether a linear map of images is learned
    stop_gradient: bool = True,  # through references into that map
    mask_above: float = 1.0,  # cosine of images that are no wrong pair; 1: none
    rngs: nnx.Rngs,
  ):
    system, causal = _sides(builds)
    self.system = system.module
    self.kinds = tuple(kind.strip() for kind in kinds.split(","))
    for kind in self.kinds:
      check_known("kind of queries", kind, self.system.KINDS)
    encode = _encoder(self.system, vocab)
    self.alpha, self.text_rate, self.neighbour = alpha, text_rate, neighbour
    self.stop_gradient = stop_gradient
    self.templates = self.system.encode_templates(
      encode, templates or self.system.TEMPLATES
    )
    words = self.system.PROMPT if instruct else self.system.BARE_PROMPT
    self.prompt = self.system.encode_prompt(encode, words)
    self.synthesize, self.mask_above = synthesize, mask_above
    sizes = {"dim": dim, "depth": depth, "mlp_ratio": mlp_ratio}
    self.lm = language.Model(causal, vocab=vocab, **sizes, rngs=rngs)
    self.adapter = self.system.Adapter(image_width, dim, rngs=rngs)
    self.scorer = system({"queries": dim, "items": image_width}, rngs=rngs)
    self.images = (
      linear.linear(image_width, image_width, bias=False, rngs=rngs)
      if tune_images
      else None
    )
    self.temperature = Temperature()

  def __call__(
    self,
    image: Float[Array, "B W"],
    reference: Float[Array, "B W"],
    caption: Int[Array, "B L"],
    text: Int[Array, "B M"],
    *,
    key: Key[Array, ""] | None = None,
  ) -> Float[Array, "K B B"]:
    """Returns the logits of all queries and images, of each kind of queries.

    Args:
      image: to be found, one of each query.
      reference: of the query; where triplets are made, another view of the image.
      caption: of the image, -1 at padding.
      text: of the query, likewise; not read where triplets are made.
      key: makes triplets and all kinds of queries; without it queries are composed of
        the references and texts that are given.
    """
    items, views = self.embed_items(image), self._seen(reference)
    if key is None:
      return self.temperature(self._queries(views, text) @ items.T)[None]
    if self.synthesize:
      found = self.system.synthesize_triplets(
        views,
        caption,
        key,
        self.templates,
        alpha=self.alpha,
        text_rate=self.text_rate,
        neighbour=self.neighbour,
        stop_gradient=self.stop_gradient,
      )
      views, text = found.reference, found.text
    given = {"image": (views, None), "text": (None, caption), "composed": (views, text)}
    queries = [self._queries(*given[kind]) for kind in self.kinds]
    logits = self.temperature(jnp.einsum("kqe,ie->kqi", jnp.stack(queries), items))
    if self.mask_above >= 1:
      return logits
    alike = self.system.false_negatives(self._seen(image), self.mask_above)
    return jnp.where(alike, -jnp.inf, logits)

  def embed_queries(
    self, image: Float[Array, "Q W"] | None, text: Int[Array, "Q M"] | None
  ) -> Float[Array, "Q E"]:
    """Returns the vectors of queries, of length 1.

    Args:
      image: references, None without.
      text: tokens, -1 at padding, None without.
    """
    return self._queries(None if image is None else self._seen(image), text)

  def embed_items(self, image: Float[Array, "I W"]) -> Float[Array, "I E"]:
    """Returns the vectors of images that are to be found, of length 1."""
    return self.scorer.embed_items(self._seen(image))

  def weights(self, image: Float[Array, "Q W"], text: Int[Array, "Q M"]) -> list[Array]:
    """Returns the attention weights of the language model's blocks for queries."""
    image = self._seen(image)
    tokens = self._tokens(image, text)
    embedded = self.system.embed_tokens(self.lm, self.adapter, image, tokens)
    return self.lm.stack.weights(embedded, valid=tokens != -1)

  def _queries(self, view, text):
    tokens = self._tokens(view, text)
    return self.system.embed_query(self.lm, self.adapter, self.scorer, view, tokens)

  def _tokens(self, image, text):
    count = (text if image is None else image).shape[0]
    return self.system.compose(self.prompt, text, count, image=image is not None)

  def _seen(self, image):
    """Returns unit vectors of images, in the type of the model."""
    kind = self.lm.embed.embedding[...].dtype
    own = image if self.images is None else self.images(image)
    return unit(own).astype(kind)


def _sides(builds):
  """Returns the constructors of the scorer and of the language model's layers."""
  pairs = [build for build in builds if build.form == "pairs"]
  causal = [build for build in builds if build.form == "causal"]
  if len(pairs) != 1 or not hasattr(pairs[0].module, "synthesize_triplets"):
    raise ValueError(
      f"{len(pairs)} mechanisms of the form pairs: composed retrieval has one, which"
      " makes triplets, such as composed_retrieval"
    )
  if not causal:
    raise ValueError("no causal mechanism: the language model needs one")
  return pairs[0], causal


def _encoder(system, vocab):
  """Returns the function of words to the system's tokens, the last of all."""
  first = vocab - len(system.WORDS)
  if first < 0:
    raise ValueError(
      f"vocab = {vocab}; it must be at least {len(system.WORDS)}, the words of"
      " templates and prompts"
    )

  def encode(word):
    check_known("word of a template", word, system.WORDS)
    return [first + system.WORDS.index(word)]

  return encode
