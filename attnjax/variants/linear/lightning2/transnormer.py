"""TransNormerLLM: the language model of gated linear attention and simple GLUs."""

import functools

from flax import nnx

from attnjax.models import language
from attnjax.variants.linear.lightning2.layer import Layer

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


class TransNormerLLM(language.Model):
  """The language host, built as the paper's model.

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
    super().__init__(
      [functools.partial(Layer, **GATED, **mixer)],
      vocab=vocab,
      dim=dim,
      depth=depth,
      hidden=hidden,
      feed_forward="sglu",
      norm="simple_rms",
      embed_scale=dim**0.5 if scaled else 1.0,
      tied=tied,
      remat=remat,
      rngs=rngs,
    )
