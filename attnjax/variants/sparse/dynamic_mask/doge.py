"""Doge: the language model of dynamic mask attention."""

import functools
from typing import Any, Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from attnjax.contract.context import Context
from attnjax.nn.stack import Stack
from attnjax.variants.sparse.dynamic_mask.experts import CrossDomainExperts
from attnjax.variants.sparse.dynamic_mask.layer import Layer

_INIT = nnx.initializers.normal(0.02)
# The table of the models' repository, which counts millions of parameters.
SIZES: dict[str, dict[str, int]] = {
  "20M": {"dim": 256, "depth": 8, "heads": 2, "kv_heads": 1, "hidden": 512},
  "60M": {"dim": 512, "depth": 16, "heads": 4, "kv_heads": 2, "hidden": 1024},
  "160M": {"dim": 768, "depth": 24, "heads": 6, "kv_heads": 3, "hidden": 1536},
  "320M": {"dim": 1024, "depth": 32, "heads": 8, "kv_heads": 4, "hidden": 2048},
}
PARAMETERS = {"20M": 13e6, "60M": 54e6, "160M": 152e6, "320M": 335e6}


class Doge(nnx.Module):
  """tokens (B, T) -> logits (B, T, vocab) float32; token t sees tokens <= t.

    x = r1 * x + attend(norm x);  x = r2 * x + feed(norm x)

  r1 and r2 are vectors of parameters, 1 at first; the norms are RMS norms.

  Args:
    vocab: number of tokens.
    dim: D.
    depth: number of blocks.
    heads: N.
    kv_heads: K.
    hidden: width of the MLPs.
    experts: of `CrossDomainExperts`, which then are the feed-forward part; an MLP alone
      if 0.
    chosen: of `CrossDomainExperts`.
    keep_keys: as in `Layer`.
    tied: whether the logits come from the transposed embedding.
    dropout: of the results of attention and of the feed-forward part.
    remat: as in `Stack`.
    impl: as in `attend`.
    rngs: for the parameters.
    options: more of `Layer`.
  """

  def __init__(
    self,
    vocab: int,
    *,
    dim: int = 1024,
    depth: int = 32,
    heads: int = 8,
    kv_heads: int = 4,
    hidden: int = 2048,
    experts: int = 0,
    chosen: int = 64,
    keep_keys: int = 2048,
    tied: bool = True,
    dropout: float = 0.0,
    remat: str = "none",
    impl: str = "auto",
    rngs: nnx.Rngs,
    **options: Any,
  ):
    mixer = {"heads": heads, "kv_heads": kv_heads, "keep_keys": keep_keys, "impl": impl}
    sparse = functools.partial(CrossDomainExperts, experts=experts, chosen=chosen)
    self.embed = nnx.Embed(vocab, dim, embedding_init=_INIT, rngs=rngs)
    self.stack = Stack(
      [functools.partial(_mixer, form="causal", **mixer, **options)],
      dim=dim,
      depth=depth,
      feed_forward=sparse if experts else "swiglu",
      hidden=hidden,
      dropout=dropout,
      learned_residuals=True,
      remat=remat,
      rngs=rngs,
    )
    self.norm = nnx.RMSNorm(dim, rngs=rngs)
    self.head = (
      None
      if tied
      else nnx.Linear(dim, vocab, use_bias=False, kernel_init=_INIT, rngs=rngs)
    )

  def __call__(
    self,
    tokens: Int[Array, "B T"],
    *,
    key: Key[Array, ""] | None = None,
    **context: Unpack[Context],
  ) -> Float[Array, "B T V"]:
    """Returns logits of the next token; a key turns dropout on.

    The context has segment_ids, valid and positions.
    """
    return self._logits(self.stack(self._embedded(tokens), key=key, **context))

  def init_cache(self, batch: int, length: int, dtype: Any = jnp.float32) -> Any:
    """Returns the empty caches of min(keep_keys, length) tokens a block."""
    return self.stack.init_cache(batch, length, dtype)

  def step(
    self, tokens: Int[Array, "B T"], cache: Any, **context: Unpack[Context]
  ) -> tuple[Float[Array, "B T V"], Any]:
    """Returns logits after each of the next T tokens, and the caches after them."""
    x, cache = self.stack.step(self._embedded(tokens), cache, **context)
    return self._logits(x), cache

  def weights(
    self, tokens: Int[Array, "B T"], **context: Unpack[Context]
  ) -> list[Array]:
    """Returns the attention weights of every block, (B, N, T, T) each."""
    return self.stack.weights(self._embedded(tokens), **context)

  def _embedded(self, tokens):
    return self.embed.embedding[...][tokens]

  def _logits(self, x):
    kernel = self.embed.embedding[...].T if self.head is None else self.head.kernel[...]
    return jnp.matmul(self.norm(x), kernel, preferred_element_type=jnp.float32)


def _mixer(dim, *, layers, **options):
  del layers
  return Layer(dim, **options)
