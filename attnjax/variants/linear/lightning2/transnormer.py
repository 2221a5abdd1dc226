"""TransNormerLLM: the language model of gated linear attention and simple GLUs."""

import functools
from typing import Any, Unpack

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from attnjax.contract.context import Context
from attnjax.nn.stack import Stack
from attnjax.variants.linear.lightning2.layer import Layer

_INIT = nnx.initializers.normal(0.02)
# The options of `Layer` for the paper's gated linear attention.
GATED = {"act_values": False, "gate": "linear", "norm": "simple_rms"}
# 385M: the released configuration. 1B and 7B: the depths, and the widths of the GLUs,
# that give the published numbers of parameters. All of 50,272 words.
SIZES: dict[str, dict[str, int]] = {
  "385M": {"dim": 1024, "depth": 24, "heads": 8, "hidden": 2816},
  "1B": {"dim": 2048, "depth": 16, "heads": 16, "hidden": 5632},
  "7B": {"dim": 4096, "depth": 30, "heads": 32, "hidden": 11008},
}
PARAMETERS = {"385M": 385e6, "1B": 1.0e9, "7B": 6.8e9}


class TransNormerLLM(nnx.Module):
  """tokens (B, T) -> logits (B, T, vocab) float32; token t sees tokens <= t.

    x = x + attend(norm x);  x = x + sglu(norm x);  norm x = x / rms(x)
    attend(x) = (norm(lightning(silu(x Wq), silu(x Wk), x Wv)) * x Wu) Wo
    sglu(x) = ((x Wa) * (x Wb)) Wc

  Embeddings are multiplied by the root of D. The queries and keys of the first block
  have linearized relative positions; all blocks decay, the deeper the less.

  Args:
    vocab: number of tokens.
    dim: D.
    depth: number of blocks.
    heads: N.
    hidden: width of the GLUs.
    lrpe_base: as in `Layer`.
    scaled: whether embeddings are multiplied.
    tied: whether the logits come from the transposed embedding.
    remat: as in `Stack`.
    impl: as in `attend`.
    rngs: for the parameters.
  """

  def __init__(
    self,
    vocab: int,
    *,
    dim: int = 1024,
    depth: int = 24,
    heads: int = 8,
    hidden: int = 2816,
    lrpe_base: float = 10000.0,
    scaled: bool = True,
    tied: bool = True,
    remat: str = "none",
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    mixer = {"heads": heads, "lrpe_base": lrpe_base, "impl": impl}
    kinds = {"norm": "simple_rms", "feed_forward": "sglu", "hidden": hidden}
    self.embed = nnx.Embed(vocab, dim, embedding_init=_INIT, rngs=rngs)
    self.stack = Stack(
      [functools.partial(Layer, **GATED, **mixer)],
      dim=dim,
      depth=depth,
      remat=remat,
      rngs=rngs,
      **kinds,
    )
    self.norm = nnx.RMSNorm(dim, use_scale=False, rngs=rngs)
    self.head = (
      None
      if tied
      else nnx.Linear(dim, vocab, use_bias=False, kernel_init=_INIT, rngs=rngs)
    )
    self.scale = dim**0.5 if scaled else 1.0

  def __call__(
    self,
    tokens: Int[Array, "B T"],
    *,
    key: Key[Array, ""] | None = None,
    **context: Unpack[Context],
  ) -> Float[Array, "B T V"]:
    """Returns logits of the next token; the context has segment_ids and valid."""
    return self._logits(self.stack(self._embedded(tokens), key=key, **context))

  def init_cache(self, batch: int, length: int, dtype: Any = jnp.float32) -> Any:
    """Returns the states of no tokens; their size does not depend on `length`."""
    return self.stack.init_cache(batch, length, dtype)

  def step(
    self, tokens: Int[Array, "B T"], cache: Any, **context: Unpack[Context]
  ) -> tuple[Float[Array, "B T V"], Any]:
    """Returns logits after each of the next T tokens, and the states after them."""
    x, cache = self.stack.step(self._embedded(tokens), cache, **context)
    return self._logits(x), cache

  def weights(
    self, tokens: Int[Array, "B T"], **context: Unpack[Context]
  ) -> list[Array]:
    """Returns the decayed scores of every block, (B, N, T, T) each."""
    return self.stack.weights(self._embedded(tokens), **context)

  def _embedded(self, tokens):
    return self.scale * self.embed.embedding[...][tokens]

  def _logits(self, x):
    kernel = self.embed.embedding[...].T if self.head is None else self.head.kernel[...]
    return jnp.matmul(self.norm(x), kernel, preferred_element_type=jnp.float32)
