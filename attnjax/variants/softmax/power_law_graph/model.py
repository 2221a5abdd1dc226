"""The language model around the layer, and the loss on its deductive outputs."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from attnjax.nn.transformer import layer_norm
from attnjax.variants.softmax.power_law_graph.layer import Layer
from attnjax.variants.softmax.power_law_graph.metric import INIT, GatedUnit, Metric
from attnjax.variants.softmax.power_law_graph.operator import Cache

# The options of `Decoder` in the authors' sample of 110 million parameters, whose
# vocabulary has 32,000 tokens and whose context has 1,024.
SIZES: dict[str, dict[str, Any]] = {
  "110m": {"dim": 896, "depth": 5, "heads": 14, "metric_hidden": 180}
  | {"residual_units": 8, "gated_units": 2}
}


class Block(nnx.Module):
  """y = norm(x + attention x), then norm(y + gated unit y).

  Args:
    dim: D.
    hidden: of the gated unit.
    rngs: for the parameters.
    **attention: options of `Layer`.
  """

  def __init__(self, dim: int, *, hidden: int, rngs: nnx.Rngs, **attention: Any):
    self.attention = Layer(dim, form="causal", rngs=rngs, **attention)
    self.feed = GatedUnit(dim, hidden, rngs=rngs)
    self.norm, self.feed_norm = (layer_norm(dim, 1e-6, rngs=rngs) for _ in range(2))

  def __call__(self, x: Float[Array, "B T D"], **context: Any) -> Array:
    """Returns the block's output; options go to the layer."""
    return self.after(x, self.attention(x, **context))

  def after(self, x: Float[Array, "B T D"], attended: Array) -> Array:
    """Returns the block's output for x and what its attention gives for it."""
    y = self.norm(x + attended)
    return self.feed_norm(y + self.feed(y))


class Decoder(nnx.Module):
  """tokens (B, T) -> logits (B, T, vocab): the PLDR-LLM.

  Embeddings times sqrt(D) are normalised; blocks normalise after their sums; a matrix
  with a bias makes the logits.

  Args:
    vocab: tokens that there are.
    dim: D.
    depth: blocks.
    heads: N.
    hidden: of the blocks' gated units; 8/3 D, rounded down, if 0.
    density: as in `Layer`; the authors' is "full".
    rngs: for the parameters.
    **attention: further options of `Layer`.
  """

  def __init__(
    self,
    vocab: int,
    *,
    dim: int = 128,
    depth: int = 2,
    heads: int = 4,
    hidden: int = 0,
    density: str = "full",
    rngs: nnx.Rngs,
    **attention: Any,
  ):
    own: dict[str, Any] = {"hidden": hidden or 8 * dim // 3, "heads": heads}
    own |= {"density": density} | attention
    start = nnx.initializers.normal(1.0)
    self.embed = nnx.Embed(vocab, dim, embedding_init=start, rngs=rngs)
    self.norm = layer_norm(dim, 1e-6, rngs=rngs)
    self.blocks = nnx.List([Block(dim, rngs=rngs, **own) for _ in range(depth)])
    self.head = nnx.Linear(dim, vocab, kernel_init=INIT, rngs=rngs)
    self.dim = dim

  def __call__(
    self,
    tokens: Int[Array, "B T"],
    *,
    curvatures: Sequence[Array] | None = None,
    **context: Any,
  ) -> Float[Array, "B T V"]:
    """Returns the logits of the next tokens.

    Args:
      tokens: token t sees those up to it; with density "full" also later ones, through
        the operators.
      curvatures: G of each block, (B|1, N, H, H), in place of the metric learners'.
      **context: see `attnjax.contract.forms.causal`.
    """
    x = self._embedded(tokens)
    for block, given in zip(self.blocks, self._given(curvatures)):
      x = block(x, **given, **context)
    return self.head(x)

  def learn(
    self, tokens: Int[Array, "B T"], **context: Any
  ) -> tuple[Float[Array, "B T V"], list[Metric]]:
    """Returns (logits, the tensors of each block), of rows without documents."""
    x, found = self._embedded(tokens), []
    for block in self.blocks:
      found.append(block.attention.deduce(x, **context))
      x = block(x, **context)
    return self.head(x), found

  def init_cache(self, batch: int, length: int, dtype: Any = jnp.float32) -> Any:
    """Returns the empty caches of all blocks, with room for `length` tokens."""
    return [block.attention.init_cache(batch, length, dtype) for block in self.blocks]

  def step(
    self,
    tokens: Int[Array, "B T"],
    caches: Sequence[Cache],
    *,
    curvatures: Sequence[Array] | None = None,
    **context: Any,
  ) -> tuple[Float[Array, "B T V"], list[Cache]]:
    """Returns the logits after the next T tokens, and the caches after them."""
    x, after = self._embedded(tokens), []
    for block, cache, given in zip(self.blocks, caches, self._given(curvatures)):
      attended, cache = block.attention.step(x, cache, **given, **context)
      x = block.after(x, attended)
      after.append(cache)
    return self.head(x), after

  def _embedded(self, tokens):
    return self.norm(math.sqrt(self.dim) * self.embed(tokens))

  def _given(self, curvatures) -> list[dict[str, Any]]:
    if curvatures is None:
      return [{}] * len(self.blocks)
    return [{"curvature": one} for one in curvatures]


def dag_loss(
  found: Sequence[Metric], coefficients: Sequence[float]
) -> Float[Array, ""]:
  """Computes the loss that is 0 where tensors are adjacencies of acyclic graphs.

  For each of A_LM, A_P and G_LM it is |log(tr(expm(X * X)) / H)|, averaged over layers,
  rows and heads. Xun Zheng et al. DAGs with NO TEARS. arXiv:1803.01422, theorem 1;
  arXiv:2410.16703, section 2.

  Args:
    found: the tensors of each layer.
    coefficients: three weights of the means; a tensor with weight 0 is left out.
  """
  total = jnp.zeros(())
  for name, weight in zip(("metric", "potential", "curvature"), coefficients):
    if weight:
      x = jnp.stack([getattr(one, name) for one in found])
      trace = jnp.trace(jax.scipy.linalg.expm(x * x), axis1=-2, axis2=-1)
      total += weight * jnp.mean(jnp.abs(jnp.log(trace / x.shape[-1])))
  return total
