"""Neighborhood attention: windows keep what blocks lose at edges, and save the time.

Claimed (arXiv:2504.16922, sections 3 and 4; 2403.04690): where what matters is near, a
sliding window is as good as full attention; blocks of the same size lose what lies
across their edges; strides are in between; the work that is saved is time saved.

Quality: on a grid of 15 x 15 tokens each token has a name of its own and a colour, and
asks for the colour of the token of a given name, at most 2 rows and columns away. Names
do not repeat in a grid, so full attention, which is trained alone and alike, can answer
by the name. An own task, since the sheet's point is a token's neighbours, and none of
the shared suite asks for them token by token. Two layers without MLPs, 32 wide, one
head, a window of 5 x 5, against blocks of 5 x 5 (stride 5) and a stride of 3. All rows
are scored at the tokens beside an edge of blocks, where the paper says that they
differ. 300 updates of 8 grids. The sheet's grid is 32 x 32 with windows of 7, and its
margins are these: within 0.01 of full attention, 0.05 above blocks, strides between.
Full attention starts from its own weights here; it may fail to learn, or win. The two
shares of work, below 6 per cent in the sheet, are arithmetic and not claimed.

Cost: processor seconds forward of T tokens in a row, a window of 64, 4 heads of 64,
against the faster of two implementations of full attention; 5 times, as the sheet has
it. A window of T tokens is the broken row.

  python -m experiments.claims neighborhood

It takes about five processor minutes.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from attnjax.variants.local import neighborhood
from attnjax.variants.softmax import dot_product
from experiments import small
from experiments.claims import rows, vision
from experiments.claims.claim import Cost, NotTestable, Quality, Sized

SIDE, WINDOW, REACH, COLOURS, NAMES, CODE = 15, 5, 2, 4, 256, 24
WIDTH, STEPS, BATCH = 32, 300, 8
LINE, HEADS, SIZE = 64, 4, 64  # of the cost
RATES = 3e-3, 1e-2, 3e-2


def _examples(seed, split):
  number = 2000 if split == "train" else 100
  rng = np.random.default_rng([seed, ("train", "validation", "test").index(split)])
  shape = (number, SIDE, SIDE)
  name = np.argsort(rng.random((number, NAMES)), axis=1)[:, : SIDE * SIDE]
  name = name.reshape(shape).astype(np.int32)
  colour = rng.integers(COLOURS, size=shape, dtype=np.int32)
  place = np.indices((SIDE, SIDE))[:, None]
  step = rng.integers(-REACH, REACH, size=(2, *shape), endpoint=True)
  row, column = np.clip(place + step, 0, SIDE - 1)
  each = np.arange(number)[:, None, None]
  asked, label = (part[each, row, column] for part in (name, colour))
  return {"name": name, "asked": asked, "colour": colour, "label": label}


def _logits(call, batch):
  return call(batch["name"], batch["asked"], batch["colour"])


def _loss(call, batch):
  return optax.softmax_cross_entropy_with_integer_labels(
    _logits(call, batch), batch["label"]
  ).mean()


def _edges():
  """Returns the tokens (SIDE, SIDE) that have another block beside them."""
  line = np.arange(SIDE)
  edge = np.isin(line % WINDOW, (0, WINDOW - 1)) & (line > 0) & (line < SIDE - 1)
  return jnp.asarray(edge[:, None] | edge)


def _score(call, batch):
  right = (_logits(call, batch).argmax(-1) == batch["label"]) & _edges()
  return right.sum() / _edges().sum() / len(batch["label"])


PROBLEM = small.Problem(_examples, _loss, _score)


class Net(nnx.Module):
  """Names, asked names and colours (B, H, W) to logits of the asked colours."""

  def __init__(self, build, rngs):
    self.embed = nnx.Linear(2 * CODE + COLOURS, WIDTH, rngs=rngs)
    self.layers = nnx.List([build(WIDTH, layers=2, rngs=rngs) for _ in range(2)])
    self.norms = nnx.List([nnx.RMSNorm(WIDTH, rngs=rngs) for _ in range(3)])
    self.head = nnx.Linear(WIDTH, COLOURS, rngs=rngs)

  def __call__(self, name, asked, colour):
    """Returns the logits (B, H, W, COLOURS)."""
    code = jax.random.normal(jax.random.key(7), (NAMES, CODE))  # the same in all nets
    parts = code[name], code[asked], jax.nn.one_hot(colour, COLOURS)
    x = self.embed(jnp.concatenate(parts, -1))
    for norm, layer in zip(self.norms, self.layers):
      x = x + layer(norm(x))
    return self.head(self.norms[2](x))


def _net(mixer):
  build = small.layer(mixer, ("image",))
  return lambda key: Net(build, nnx.Rngs(key))


def _windows(stride):
  options = {"heads": 1, "window": WINDOW, "stride": stride}
  return "neighborhood", options


def _row(name, kind, mixer):
  recipe = small.Recipe(steps=STEPS, batch=BATCH)
  return rows.trained(name, kind, _net(mixer), PROBLEM, recipe)


SLIDING = _row("sliding windows", "mechanism", _windows(1))
STRIDED = _row("windows of stride 3", "rival", _windows(3))
OTHERS = (
  _row("without them", "without", small.without(_windows(1), ("image",))),
  _row("full attention", "baseline", ("dot_product", {"heads": 1})),
  _row("blocks", "rival", _windows(WINDOW)),
  rows.untrained("sliding windows, untrained", _net(_windows(1)), PROBLEM),
)
ROWS = (SLIDING, *OTHERS, STRIDED)


def _seconds(*forms):
  """Returns a function of T: the least processor seconds of some forms."""

  def measure(T):
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (1, T, HEADS, SIZE)) for key in keys)
    return min(vision.seconds(vision.jitted(form, q, k, v), 1) for form in forms)

  return measure


def _whole(q, k, v):
  return neighborhood.attend(q, k, v, window=q.shape[1])


_claim = functools.partial(
  Quality, unit="of answers", better="more", rates=RATES, source="section 3"
)
CLAIMS = (
  _claim(
    sentence="A sliding window answers as well as full attention where all is near.",
    rows=ROWS,
    against="full attention",
    margin=-0.01,
  ),
  _claim(
    sentence="A sliding window answers better than blocks beside their edges.",
    rows=ROWS,
    against="blocks",
    margin=0.05,
  ),
  _claim(
    sentence="A stride of 3 answers better than blocks beside their edges.",
    rows=(
      dataclasses.replace(STRIDED, kind="mechanism"),
      dataclasses.replace(SLIDING, kind="rival"),
      *OTHERS,
    ),
    against="blocks",
    margin=0.0,
  ),
  Cost(
    sentence="A window of 64 of 4096 tokens is 5 times as fast as full attention.",
    source="section 4",
    unit="seconds",
    rows=(
      Sized(
        "a window of 64",
        "mechanism",
        _seconds(functools.partial(neighborhood.attend, window=LINE)),
      ),
      Sized(
        "full attention, the faster of two",
        "rival",
        _seconds(dot_product.attend, jax.nn.dot_product_attention),
      ),
      Sized("a window of all", "broken", _seconds(_whole)),
    ),
    sizes=(512, 1024, 2048, 4096),
    against="full attention, the faster of two",
    ratio=5.0,
  ),
  NotTestable(
    sentence="Generators of images and films run 28 to 46 per cent faster without"
    " fine-tuning, as good as before.",
    source="abstract; section 4",
    reason="needs Cosmos, HunyuanVideo and FLUX, and a B200",
  ),
)
