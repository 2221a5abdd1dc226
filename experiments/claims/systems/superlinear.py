"""Superlinear attention: a needle at any depth, for T^1.5 products.

Claimed (arXiv:2601.18401, abstract): no position is out of reach, although a query
reads about T^0.5 keys; the time grows as T^1.5.

Needle: 256 tokens of 16 symbols of noise, in which one of 8 values stands at a random
place of the first 192; the last token asks which. A convolution of width 2 T^0.5 = 32
lets the keys of anchors tell of the tokens before them, as a recurrence does in the
paper's model; it starts as a sum for all rows. One layer 32 wide with 2 heads, 2 spans,
a window of 3, no MLP, 300 steps of 8. A query reads at most 0.35 of the tokens at this
length; at the shared suite's lengths it would read nearly all, so that this task is an
own one. A value guessed is right in 1/8. Within 0.1 of dense attention is the
catalogue's bound of 90 % where dense attention finds all.

Time: CPU seconds forward, one head of 16. The bound for four times the length is a
factor of 9, as the catalogue has it: the exponent 1.585. The rivals are dense attention
in blocks and `jax.nn`; the broken row is the definition, with its (T, T) scores.

  python -m experiments.claims superlinear

About 250 s of one core.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.nn.convolution import ShortConvolution
from attnjax.nn.stack import Stack
from attnjax.variants.softmax import dot_product
from attnjax.variants.sparse import superlinear
from experiments import data, small
from experiments.claims import rows, timing
from experiments.claims.claim import Cost, NotTestable, Quality, Sized
from experiments.small import problem as problems

LENGTH, NOISE, VALUES, PLACES = 256, 16, 8, 192
WIDTH, REACH, FORMS = 32, 32, ("causal",)
TRAIN, HELD_OUT = 4096, 512
BARE = {"heads": 2, "rope_theta": 0.0}
SPANS = "superlinear", BARE | {"top": 2, "window_index": 1}


class _Model(nnx.Module):
  """Embeddings, a wide convolution, one layer, a linear head at the last token."""

  def __init__(self, build, *, rngs: nnx.Rngs):
    self.embed = nnx.Embed(NOISE + VALUES + 1, WIDTH, rngs=rngs)
    self.convolution = ShortConvolution(WIDTH, REACH, rngs=rngs)
    self.convolution.kernel[...] = jnp.full((REACH, WIDTH), REACH**-0.5)
    self.stack = Stack([build], dim=WIDTH, depth=1, hidden=0, rngs=rngs)
    self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)
    self.head = nnx.Linear(WIDTH, VALUES, rngs=rngs)

  def __call__(self, tokens):
    x = self.embed(tokens)
    x = self.stack(x + self.convolution(x))
    return self.head(self.norm(x[:, -1:]))


@functools.cache
def texts(seed, split):
  """Draws tokens (B, T) that end with a question, and the values asked, (B, 1)."""
  rng = np.random.default_rng([seed, data.SPLITS.index(split)])
  count = TRAIN if split == "train" else HELD_OUT
  tokens = rng.integers(NOISE, size=(count, LENGTH), dtype=np.int32)
  value = rng.integers(VALUES, size=count, dtype=np.int32)
  tokens[np.arange(count), rng.integers(PLACES, size=count)] = NOISE + value
  tokens[:, -1] = NOISE + VALUES
  return {"tokens": tokens, "labels": value[:, None]}


NEEDLE = small.Problem(texts, problems.labels_loss, problems.labels_score)


def _row(name, kind, build, steps=300):
  def model(key):
    return _Model(small.layer(build, FORMS), rngs=nnx.Rngs(key))

  return rows.trained(name, kind, model, NEEDLE, small.Recipe(steps=steps, batch=8))


def _seconds(attend, length: int) -> float:
  """Returns the seconds of the forward pass at a length."""
  keys = jax.random.split(jax.random.key(0), 3)
  return timing.seconds(
    attend, *(jax.random.normal(k, (1, length, 1, 16)) for k in keys)
  )


def _spans(impl):
  def attend(q, k, v):
    return superlinear.attend(q, q, k, v, impl=impl)

  return functools.partial(_seconds, attend)


_DENSE = functools.partial(dot_product.attend, causal=True)
_PEER = functools.partial(jax.nn.dot_product_attention, is_causal=True)

CLAIMS = (
  Quality(
    sentence="Spans find a needle at any depth as dense attention does, within 0.1.",
    source="abstract, on retrieval",
    unit="share of right answers",
    better="more",
    rows=(
      _row("spans", "mechanism", SPANS),
      _row("without it", "without", small.without(SPANS, FORMS)),
      _row("dense attention", "baseline", ("dot_product", BARE)),
      _row("untrained", "broken", SPANS, steps=0),
    ),
    against="dense attention",
    margin=-0.1,
  ),
  Cost(
    sentence="The time grows as the power 1.5 of the length.",
    source="abstract",
    unit="seconds",
    rows=(
      Sized("spans", "mechanism", _spans("xla")),
      Sized("dense, in blocks", "rival", functools.partial(_seconds, _DENSE)),
      Sized("jax.nn", "rival", functools.partial(_seconds, _PEER)),
      Sized("a matrix of all scores", "broken", _spans("reference")),
    ),
    sizes=(1024, 2048, 4096, 8192),
    exponent=1.585,
  ),
  NotTestable(
    sentence="A hybrid model decodes over 100 tokens a second at a million of context.",
    source="abstract, on throughput",
    reason="a model of 30 billion parameters on an accelerator",
  ),
)
