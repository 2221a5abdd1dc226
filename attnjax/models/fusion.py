"""A vision-language model: image tokens in the row of a causal text decoder.

Haotian Liu et al. Visual Instruction Tuning. arXiv:2304.08485, section 4.1, whose
projected image tokens stand among the words' embeddings; the connector is an MLP
(Improved Baselines with Visual Instruction Tuning. arXiv:2310.03744, section 3.3).
Patches are embedded linearly, without an image encoder of their own, as in Fuyu-8B
(Rohan Bavishi et al. 2023). With fixed 2-D sinusoids images of any size fit. Patches
are normalised and words begin with a deviation of 0.5, so that neither drowns the
other.

  row = words[: prompt], patches of the image row by row, words[prompt :]

Blocks, norm and tied head are those of `attnjax.models.language`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from attnjax.contract import registry
from attnjax.contract.trace import Edit, Edits, Trace
from attnjax.core import masks
from attnjax.nn import running, streams
from attnjax.nn.connector import Connector
from attnjax.nn.patches import Patches
from attnjax.nn.stack import Stack, hidden_size

FORMS = ("causal",)
TAKES = "image_text"  # what its data sets hold
SIZES = ("channels", "vocab")  # what Model is told of them


def inputs(batch: Mapping[str, Any]) -> tuple[tuple, dict[str, Any]]:
  """Returns the arguments and options of Model's call for a batch."""
  packing = {"valid": batch["valid"]} if "valid" in batch else {}
  return (batch["image"], batch["tokens"]), packing


def tiny(rngs: nnx.Rngs) -> tuple[Any, dict[str, Any]]:
  """Returns a small model around dot products, and a batch of 3 examples."""
  build = registry.constructor("dot_product", {"heads": 2}, FORMS)
  sizes = {"channels": 3, "vocab": 17, "patch": 4, "dim": 16, "depth": 3, "prompt": 2}
  draw = np.random.default_rng(0)
  images = draw.standard_normal((3, 12, 16, 3), np.float32)
  tokens = draw.integers(0, 17, (3, 10), np.int32)
  return Model([build], **sizes, rngs=rngs), {"image": images, "tokens": tokens}


class Model(nnx.Module):
  """images (B, H, W, channels), words (B, T) -> logits (B, T, vocab) float32.

  Word t sees words <= t, and the image if t >= `prompt`. `stats` and `train` are of
  layers with batch norm, see `attnjax.nn.running`.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    builds: Sequence[Callable],
    *,
    channels: int,
    vocab: int,
    patch: int = 8,
    prompt: int = 1,  # words before the image
    dim: int = 64,
    depth: int = 4,
    mlp_ratio: float = 8 / 3,  # 0: no MLP in the blocks
    connector_ratio: float = 4.0,  # hidden width of the connector, in dim
    conv: int = 0,  # width of a causal convolution before each mixer; 0: none
    dropout: float = 0.0,
    remat: str = "none",
    rngs: nnx.Rngs,
  ):
    if prompt < 0:
      raise ValueError(f"prompt = {prompt}; it must be at least 0")
    init = nnx.initializers.normal(0.5)
    self.embed = nnx.Embed(vocab, dim, embedding_init=init, rngs=rngs)
    self.patches = Patches(channels, dim, patch, rngs=rngs)
    self.connector = Connector(dim, hidden_size(dim, connector_ratio), rngs=rngs)
    self.stack = Stack(
      builds,
      dim=dim,
      depth=depth,
      hidden=hidden_size(dim, mlp_ratio),
      conv=conv,
      dropout=dropout,
      remat=remat,
      rngs=rngs,
    )
    self.norm = nnx.RMSNorm(dim, rngs=rngs)
    self.patch, self.prompt = patch, prompt

  def __call__(
    self,
    images: Float[Array, "B H W C"],
    tokens: Int[Array, "B T"],
    *,
    valid: Bool[Array, "B T"] | None = None,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns logits after each word, and new statistics if some are given.

    Args:
      images: of any size.
      tokens: words; T is `prompt` at least.
      valid: True at the real words.
      key: turns dropout on.
      stats: running statistics, where there is batch norm.
      train: whether batch norm measures the batch.

    Raises:
      ValueError: if there are fewer words than `prompt`.
    """
    carry = running.Carry(self, stats, train)
    x, context = self.row(images, tokens, valid=valid)
    x = carry(self.stack, x, key=key, **context)
    return carry.result(self.logits(x, images.shape))

  def grid(self, shape: Sequence[int]) -> tuple[int, int]:
    """Returns rows and columns of patches of images of shape (..., H, W, C)."""
    return -(-shape[-3] // self.patch), -(-shape[-2] // self.patch)

  def span(self, shape: Sequence[int]) -> tuple[int, int]:
    """Returns (first, end) of the image's tokens in the row, for such images."""
    rows, columns = self.grid(shape)
    return self.prompt, self.prompt + rows * columns

  def row(
    self,
    images: Float[Array, "B H W C"],
    tokens: Int[Array, "B T"],
    *,
    valid: Bool[Array, "B T"] | None = None,
  ) -> tuple[Float[Array, "B L D"], dict[str, Any]]:
    """Returns the embedded row of P + T tokens, and its context for the stack.

    Raises:
      ValueError: if there are fewer words than `prompt`.
    """
    if tokens.shape[1] < self.prompt:
      raise ValueError(
        f"{tokens.shape[1]} words; prompt = {self.prompt} stand before the image"
      )
    seen = self.connector(self.patches(images))
    seen = seen.reshape(len(images), -1, seen.shape[-1])
    words = self._words(tokens)
    x = _inserted(words, seen.astype(words.dtype), self.prompt)
    context = self._fixed(x.shape[1])
    if valid is not None:
      context["valid"] = _inserted(valid, jnp.ones(seen.shape[:2], bool), self.prompt)
    return x, context

  def logits(
    self, x: Float[Array, "B L D"], shape: Sequence[int] | None = None
  ) -> Float[Array, "B T V"]:
    """Returns the logits after the words of a row, or after all of x without `shape`.

    Args:
      x: the output of the stack.
      shape: of the images in the row, whose tokens are left out.
    """
    if shape is not None:
      first, end = self.span(shape)
      x = jnp.concatenate([x[:, :first], x[:, end:]], axis=1)
    head = self.embed.embedding[...].T
    return jnp.matmul(self.norm(x), head, preferred_element_type=jnp.float32)

  def init_cache(self, batch: int, length: int, dtype=jnp.float32) -> Any:
    """Returns empty caches with room for `length` tokens, those of images included."""
    return self.stack.init_cache(batch, length, dtype, **self._fixed(length))

  def step(
    self,
    tokens: Int[Array, "B T"],
    cache: Any,
    *,
    images: Float[Array, "B H W C"] | None = None,
    valid: Bool[Array, "B T"] | None = None,
  ) -> tuple[Float[Array, "B T V"], Any]:
    """Returns logits after each of the next T words, and the caches.

    The images go with the first step, whose words begin the row.
    """
    if images is None:
      context = {} if valid is None else {"valid": valid}
      x = self._words(tokens)
    else:
      x, context = self.row(images, tokens, valid=valid)
      context.pop("stream", None)
    x, cache = self.stack.step(x, cache, **context)
    return self.logits(x, None if images is None else images.shape), cache

  def weights(
    self,
    images: Float[Array, "B H W C"],
    tokens: Int[Array, "B T"],
    *,
    valid: Bool[Array, "B T"] | None = None,
    stats: Any = None,
  ) -> list[Array]:
    """Returns the attention weights of every block, (B, N, P + T, P + T) each."""
    own = running.Carry(self, stats, False).of(self.stack)
    x, context = self.row(images, tokens, valid=valid)
    return self.stack.weights(x, stats=own, **context)

  def trace(
    self,
    images: Float[Array, "B H W C"],
    tokens: Int[Array, "B T"],
    *,
    edit: Edit | Edits | None = None,
    valid: Bool[Array, "B T"] | None = None,
    stats: Any = None,
  ) -> Trace:
    """Returns the values inside, of whole rows, with the words' logits as `output`.

    Its `tokens` (B, P + T) are -1 at the image.
    """
    own = running.Carry(self, stats, False).of(self.stack)
    x, context = self.row(images, tokens, valid=valid)
    found = self.stack.trace(x, edit=edit, stats=own, **context)
    logits = self.logits(found.output, images.shape)
    ids = masks.segments(None, context.get("valid"), x.shape[:2])
    first, end = self.span(images.shape)
    blank = jnp.full((len(images), end - first), -1, tokens.dtype)
    row = _inserted(tokens, blank, self.prompt)
    return dataclasses.replace(found, output=logits, tokens=row, ids=ids)

  def _words(self, tokens):
    return self.embed.embedding[...][tokens]

  def _fixed(self, length):
    """Returns the option `stream` of the stack, if a mixer reads a fixed sequence."""
    found = streams.start(self.stack.blocks, length, lambda: self.embed.embedding[...])
    return {} if found is None else {"stream": found}


def _inserted(words, image, place):
  return jnp.concatenate([words[:, :place], image, words[:, place:]], axis=1)
