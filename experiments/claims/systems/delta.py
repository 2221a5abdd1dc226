"""DELTA: a few layers choose the pages that the layers after them read.

Claimed (arXiv:2510.09883, abstract): accuracy of full attention on AIME and GPQA with
up to 5 times fewer attended tokens, and 1.5 times the speed end to end. Choices of one
step, and choices without a layer in the middle, lose the chain of reasoning.

Here chains of lookups are written step by step, see `experiments.claims.tasks.chains`:
pages of 4 tokens, 4 of the 17 to 19 pages, the last one among them; layers 0 and 2 of 4
attend to everything and choose. Rows differ in the choice only. Without it the sparse
layers see as many pages, the last ones. "Chosen once" chooses at the first step of the
chain and stays, as an eviction at the end of the prompt does. The rule misses with
pages that random queries choose, whose number is the same. Accuracies of 0.95 of full
attention's, and clear losses of one choice at layer 0, are the catalogue's guess.

Seconds: the attention of one step over 28 layers, full and sparse ones as in the paper,
64 pages of 16 tokens, beside full attention in all layers; one sequence, 4 heads of 32,
2 of keys. The broken row has the policy in all layers and leaves no layer sparse.

  python -m experiments.claims delta

About 12 minutes of one core.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from attnjax.variants.decode import delta
from attnjax.variants.softmax import dot_product
from experiments.claims import timing
from experiments.claims.claim import Cost, NotTestable, Quality, Sized
from experiments.claims.tasks import chains

SIZES: Any = {"pages": 4, "page": 4, "recent_pages": 1}
TWO = delta.Policy(full_layers=(0, 2), **SIZES)


@dataclasses.dataclass(frozen=True)
class RandomPages(delta.Policy):
  """DELTA whose queries are noise, another one in each step and row."""

  def choose(self, q, past, own, shared, index):
    """Returns the choice for a random query."""
    key = jax.random.fold_in(jax.random.key(0), past.tokens.length)
    return super().choose(jax.random.normal(key, q.shape), past, own, shared, index)


def _changed(**options):
  return dataclasses.replace(TWO, **options)


DELTA = chains.row("DELTA, layers 0 and 2", "mechanism", TWO)
LAST = chains.row("the last pages alone", "without", _changed(recent_pages=4))
FULL = chains.row("full attention", "baseline", None)
FIRST = chains.row("one choice, layer 0", "rival", _changed(full_layers=(0,)))
ONCE = chains.row("chosen once", "rival", _changed(reselect_every=1000))
RANDOM = chains.row("random pages", "broken", RandomPages(full_layers=(0, 2), **SIZES))
ROWS = DELTA, LAST, FULL, FIRST, ONCE, RANDOM

LAYERS, HEADS, GROUPS, SIZE = 28, 4, 2, 32
PAPER = delta.Policy()


def _seconds(full, places):
  """Returns the CPU seconds of one step's attention in all layers."""
  draw = functools.partial(jax.random.normal, dtype=jnp.float32)
  q = draw(jax.random.key(0), (LAYERS, 1, HEADS, SIZE))
  k, v = draw(jax.random.key(1), (2, LAYERS, 1, places, GROUPS, SIZE))
  lengths = jnp.full((1,), places, jnp.int32)
  policy = dataclasses.replace(PAPER, full_layers=full).fitted(LAYERS)

  def step(q, k, v):
    pages: Any = None
    real, outs = None, []
    for layer in range(LAYERS):
      own = q[layer], k[layer], v[layer]
      if layer in policy.full_layers:
        out = dot_product.attend(own[0][:, None], *own[1:], causal=True)[:, 0]
      else:
        out = delta.attend(*own, pages=pages, real=real, lengths=lengths)
      if layer in policy.selection_layers:
        heads = own[0].reshape(1, GROUPS, -1, SIZE)
        logits = SIZE**-0.5 * jnp.einsum("bkgh,bskh->bkgs", heads, own[1])
        scores = delta.page_scores(logits.reshape(1, HEADS, -1))
        pages, real = delta.select_pages(scores, lengths)
      outs.append(out)
    return jnp.stack(outs)

  return timing.seconds(step, q, k, v)


def _cost(name, kind, full):
  return Sized(name, kind, functools.partial(_seconds, full))


EVERY = tuple(range(LAYERS))

CLAIMS = (
  Quality(
    sentence="With pages chosen by two of four layers a model writes chains of lookups"
    " as well as with full attention.",
    source="abstract; the task is ours",
    unit="share of right symbols",
    better="more",
    rows=ROWS,
    against="full attention",
    margin=-0.05,
  ),
  Quality(
    sentence="A second choosing layer in the middle keeps chains that one choice at"
    " layer 0 loses.",
    source="section 3; the task is ours",
    unit="share of right symbols",
    better="more",
    rows=ROWS,
    against="one choice, layer 0",
    margin=0.05,
  ),
  Quality(
    sentence="Choosing at each step keeps chains that a choice at the first one loses.",
    source="section 2; the task is ours",
    unit="share of right symbols",
    better="more",
    rows=ROWS,
    against="chosen once",
    margin=0.05,
  ),
  Cost(
    sentence="A step of decoding with DELTA takes two thirds of the seconds of full"
    " attention, at 16,384 tokens.",
    source="abstract, 1.5 times end to end on a GPU; here attention alone on a CPU",
    unit="seconds",
    rows=(
      _cost("DELTA", "mechanism", delta.spread_layers(LAYERS)),
      _cost("full attention", "rival", EVERY),
      _cost("DELTA without sparse layers", "broken", EVERY),
    ),
    sizes=(2048, 4096, 8192, 16384),
    against="full attention",
    ratio=1.5,
  ),
  NotTestable(
    sentence="DeepSeek-distilled Qwen models of 1.5B to 14B parameters answer AIME and"
    " GPQA as well as with full attention.",
    source="abstract, section 4",
    reason="the models and their accelerators are not here",
  ),
)
