"""Doge: the language model of dynamic mask attention."""

import functools
from typing import Any

from flax import nnx

from attnjax.models import language
from attnjax.variants.sparse.dynamic_mask.experts import CrossDomainExperts
from attnjax.variants.sparse.dynamic_mask.layer import Layer

# The table of the models' repository, which counts millions of parameters.
SIZES: dict[str, dict[str, int]] = {
  "20M": {"dim": 256, "depth": 8, "heads": 2, "kv_heads": 1, "hidden": 512},
  "60M": {"dim": 512, "depth": 16, "heads": 4, "kv_heads": 2, "hidden": 1024},
  "160M": {"dim": 768, "depth": 24, "heads": 6, "kv_heads": 3, "hidden": 1536},
  "320M": {"dim": 1024, "depth": 32, "heads": 8, "kv_heads": 4, "hidden": 2048},
}
PARAMETERS = {"20M": 13e6, "60M": 54e6, "160M": 152e6, "320M": 335e6}


class Doge(language.Model):
  """The language host, built as the paper's model.

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
    super().__init__(
      [functools.partial(_mixer, form="causal", **mixer, **options)],
      vocab=vocab,
      dim=dim,
      depth=depth,
      hidden=hidden,
      feed_forward=sparse if experts else "swiglu",
      learned_residuals=True,
      tied=tied,
      dropout=dropout,
      remat=remat,
      rngs=rngs,
    )


def _mixer(dim, *, layers, **options):
  del layers
  return Layer(dim, **options)
