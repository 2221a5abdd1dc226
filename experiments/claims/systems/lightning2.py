"""Lightning Attention-2: time in proportion to the length, softmax's quality.

Claimed (arXiv:2401.04658, sections 1 and 4): the time a token does not grow with the
length; language models are as good as with softmax attention. The paper's layer decays
its state by a factor for each head; that a decay helps is of TransNormerLLM
(arXiv:2307.14995), on whose layer this one is built.

Texts: Markov chains of order 3 of 4 symbols, one chain for each seed; 64 symbols, two
blocks 32 wide with 8 heads (softmax 4), 300 steps of 16. All mechanisms get sinusoids
of their positions at the input, so that what a missing decay loses is not just that
nothing tells an order. The head with the fastest decay forgets 0.4 in a token, which
tells the last symbols apart; with 4 heads the fastest forgets 0.2. An own task, which
the catalogue names: its signal is local, and its entropy is known. The margins are the
catalogue's, 0.03 nats to softmax attention and 0.02 nats to no decay; both were set
before any run, for 64 channels and 256 symbols, for which there is no time here.

Time: CPU seconds of forward and backward of 2 heads of 32, float32. The rivals are
softmax attention in blocks and `jax.nn`; the broken row is the definition, with its
matrix of the decayed products. A growth of 30 % a token from 1k to 16k, as the
catalogue allows, is the exponent 1.1.

  python -m experiments.claims lightning2

About 250 s of one core.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.core.positions import sinusoids
from attnjax.nn.stack import Stack
from attnjax.variants.linear import lightning2
from attnjax.variants.softmax import dot_product
from experiments import data, small
from experiments.claims import rows, timing
from experiments.claims.claim import Cost, NotTestable, Quality, Sized
from experiments.small import problem as problems

SYMBOLS, ORDER, LENGTH, WIDTH = 4, 3, 64, 32
TRAIN, HELD_OUT = 8192, 1024
FORMS, HEADS = ("causal",), {"heads": 8}
DECAYING, CONSTANT = (
  ("lightning2", HEADS | {"slope_kind": kind}) for kind in ("alibi", "none")
)
TIMED, SIZE = 2, 32  # heads, and their size


class _Model(nnx.Module):
  """Embeddings and sinusoids, two blocks, a linear head."""

  def __init__(self, build, *, rngs: nnx.Rngs):
    self.embed = nnx.Embed(SYMBOLS, WIDTH, rngs=rngs)
    self.stack = Stack([build], dim=WIDTH, depth=2, hidden=2 * WIDTH, rngs=rngs)
    self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)
    self.head = nnx.Linear(WIDTH, SYMBOLS, rngs=rngs)

  def __call__(self, tokens):
    x = self.embed(tokens) + sinusoids(tokens.shape[1:], WIDTH)
    return self.head(self.norm(self.stack(x)))


@functools.cache
def texts(seed, split):
  """Draws texts of the seed's chain: tokens and labels, (B, T)."""
  # No split has this number: all share the chain.
  chain = np.random.default_rng([seed, len(data.SPLITS)])
  logits = 2 * chain.standard_normal((SYMBOLS**ORDER, SYMBOLS))
  rng = np.random.default_rng([seed, data.SPLITS.index(split)])
  count = TRAIN if split == "train" else HELD_OUT
  context, found = rng.integers(SYMBOLS**ORDER, size=count), []
  for _ in range(LENGTH + 1):
    # The largest of logits with Gumbel noise is a draw of their softmax.
    symbol = (logits[context] + rng.gumbel(size=(count, SYMBOLS))).argmax(axis=1)
    context = (context * SYMBOLS + symbol) % SYMBOLS**ORDER
    found.append(symbol)
  text = np.stack(found, axis=1).astype(np.int32)
  return {"tokens": text[:, :-1], "labels": text[:, 1:]}


TEXTS = small.Problem(texts, problems.labels_loss, problems.labels_loss)


def _row(name, kind, build, steps=300):
  def model(key):
    return _Model(small.layer(build, FORMS), rngs=nnx.Rngs(key))

  return rows.trained(name, kind, model, TEXTS, small.Recipe(steps=steps, batch=16))


def _seconds(attend, length: int) -> float:
  """Returns the seconds of forward and backward at a length."""
  keys = jax.random.split(jax.random.key(0), 4)
  *inputs, cotangent = (jax.random.normal(k, (1, length, TIMED, SIZE)) for k in keys)

  def total(q, k, v):
    return jnp.vdot(cotangent, attend(q, k, v))

  return timing.seconds(jax.value_and_grad(total, (0, 1, 2)), *inputs)


def _decayed(impl):
  slopes = lightning2.slopes(TIMED)
  attend = functools.partial(lightning2.attend, slopes=slopes, impl=impl)
  return functools.partial(_seconds, attend)


_SOFTMAX = functools.partial(dot_product.attend, causal=True)
_PEER = functools.partial(jax.nn.dot_product_attention, is_causal=True)
_QUALITY = (
  _row("decay", "mechanism", DECAYING),
  _row("without it", "without", small.without(DECAYING, FORMS)),
  _row("softmax attention", "baseline", ("dot_product", {"heads": 4})),
  _row("no decay", "rival", CONSTANT),
  _row("untrained", "broken", DECAYING, steps=0),
)

CLAIMS = (
  Quality(
    sentence="The loss of a text is within 0.03 nats of softmax attention's.",
    source="abstract and section 4, on language models",
    unit="nats a symbol",
    better="less",
    rows=_QUALITY,
    against="softmax attention",
    margin=-0.03,
  ),
  Quality(
    sentence="A decay lowers the loss of a text, although positions are told.",
    source="arXiv:2307.14995, on the decay",
    unit="nats a symbol",
    better="less",
    rows=_QUALITY,
    against="no decay",
    margin=0.02,
  ),
  Cost(
    sentence="The time of forward and backward grows in proportion to the length.",
    source="abstract and section 4, on speed",
    unit="seconds",
    rows=(
      Sized("in chunks", "mechanism", _decayed("xla")),
      Sized("softmax, in blocks", "rival", functools.partial(_seconds, _SOFTMAX)),
      Sized("jax.nn", "rival", functools.partial(_seconds, _PEER)),
      Sized("a matrix of all products", "broken", _decayed("reference")),
    ),
    sizes=(512, 1024, 2048, 4096),
    exponent=1.1,
  ),
  NotTestable(
    sentence="The speed of training is constant up to 92,000 tokens on one GPU.",
    source="section 4, on speed",
    reason="it is the throughput of models of 0.4 to 3 billion parameters on an A100",
  ),
)
