"""The baseline: attention in linear memory, and grouped heads as good as all heads.

Claimed:
- Markus N. Rabe, Charles Staats (arXiv:2112.05682): self-attention needs no memory that
  grows with the square of the length;
- Joshua Ainslie et al., GQA (arXiv:2305.13245, table 1): the quality of grouped heads
  is near that of all heads and above that of one key head: averages of 47.2 with all,
  47.1 with 8 groups and 46.6 with one key head (quoted from memory).

Quality: the next byte of Python's sources, 64 bytes, two blocks 32 wide with short
convolutions of 3, 8 query heads and 8, 2 or 1 heads of keys and values, 250 steps of
16, as for gated attention. A text, as the paper's comparison is of texts. The margins
are the paper's relative differences at 2.4 nats, rounded: 0.2 % is 0.005, and half of
1 % is 0.012. The paper's models start from checkpoints with all heads; here each is
trained from the start.

Memory: temporary bytes of forward and backward, as XLA plans them for the CPU, of 8
causal heads of 64; compiled and not run. The rival is `jax.nn.dot_product_attention`,
the broken row the definition with its matrix of scores.

  python -m experiments.claims dot_product

About 200 s of one core.
"""

import functools

import jax
import jax.numpy as jnp

from attnjax.variants.softmax import dot_product
from experiments import small
from experiments.claims import rows, timing
from experiments.claims.claim import Cost, NotTestable, Quality, Sized
from experiments.claims.tasks import python_text

HEADS, HEAD, WIDTH, STEPS = 8, 64, 32, 250
TEXT = python_text.problem()


def _grouped(kv_heads):
  return "dot_product", {"heads": HEADS, "kv_heads": kv_heads}


def _text(name, kind, build, steps=STEPS):
  model = small.language([build], vocab=python_text.VOCAB, dim=WIDTH, conv=3)
  return rows.trained(name, kind, model, TEXT, small.Recipe(steps=steps, batch=16))


def _bytes(attend, length: int) -> float:
  """Returns the temporary bytes of a forward and backward pass, compiled, not run."""
  shape = jax.ShapeDtypeStruct((1, length, HEADS, HEAD), jnp.float32)

  def total(q, k, v):
    return jnp.sum(jnp.sin(attend(q, k, v)))

  return timing.temporary_bytes(jax.grad(total, (0, 1, 2)), shape, shape, shape)


def _ours(impl):
  return functools.partial(
    _bytes, functools.partial(dot_product.attend, causal=True, impl=impl)
  )


_PEER = functools.partial(jax.nn.dot_product_attention, is_causal=True)
_QUALITY = (
  _text("2 heads of keys", "mechanism", _grouped(2)),
  _text("without it", "without", small.without(_grouped(2), ("causal",))),
  _text("8 heads of keys", "baseline", _grouped(8)),
  _text("1 head of keys", "rival", _grouped(1)),
  _text("untrained", "broken", _grouped(2), steps=0),
)

CLAIMS = (
  Quality(
    sentence="Two heads of keys for eight of queries are as good as eight, nearly.",
    source="arXiv:2305.13245, table 1",
    unit="nats a byte",
    better="less",
    rows=_QUALITY,
    against="8 heads of keys",
    margin=-0.005,
    paper=-0.005,
  ),
  Quality(
    sentence="Two heads of keys for eight of queries are better than one.",
    source="arXiv:2305.13245, table 1",
    unit="nats a byte",
    better="less",
    rows=_QUALITY,
    against="1 head of keys",
    margin=0.012,
    paper=0.024,
  ),
  Cost(
    sentence="Memory of forward and backward grows in proportion to the length.",
    source="arXiv:2112.05682, section 1",
    unit="bytes",
    rows=(
      Sized("blockwise", "mechanism", _ours("xla")),
      Sized("jax.nn", "rival", functools.partial(_bytes, _PEER)),
      Sized("a matrix of all scores", "broken", _ours("reference")),
    ),
    sizes=(1024, 2048, 4096, 8192),
    exponent=1.1,
  ),
  NotTestable(
    sentence="Grouped heads decode nearly as fast as one head of keys.",
    source="arXiv:2305.13245, table 1",
    reason="it is the time to read the cache from an accelerator's memory; a CPU at"
    " this size spends it elsewhere",
  ),
)
