"""The three sub-networks: base, overview, and the focus that looks again."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from attnjax.contract.trace import Edit, Edits, Trace
from attnjax.core import resample
from attnjax.nn import running
from attnjax.nn.backbone import Classifier
from attnjax.nn.norms import BatchNorm
from attnjax.nn.stages import Stage, Stages
from attnjax.variants.local.overlock.parts import Convolution, Projection, gelu, linear


class Focused(nnx.Module):
  """The loop of the stages: the first map to the maps of all stages.

    maps = base(x);  overview = stage(merge(maps[-1]));  raw = linear(overview)
    y = focus0([maps[-1], enlarged raw]);  z = focus1(merges of both parts of y)

  The maps are those of the base's stages but its last, y and z, whose last quarter of
  the overview's width is the context.

  Args:
    base: stages of blocks of large convolutions.
    overview: the coarse stage, half as fine as the base's last.
    focus: two stages of guided blocks.
    dims: widths of the base's last map, and of the overview.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    base: Stages,
    overview: Stage,
    focus: tuple[Stage, Stage],
    *,
    dims: tuple[int, ...],
    rngs: nnx.Rngs,
  ):
    dim, coarse = dims
    self.base, self.overview, self.focus = base, overview, nnx.List(focus)
    self.merge = Convolution(dim, coarse, 2, rngs=rngs)
    self.reduce = linear(coarse, coarse // 4, rngs=rngs)
    self.merges = nnx.List(
      [
        Convolution(dim, coarse, 2, rngs=rngs),
        Convolution(coarse // 4, coarse // 4, 2, rngs=rngs),
      ]
    )
    self.dim = dim

  def both(
    self,
    x: Float[Array, "B H W C"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns (the maps of all stages, the overview), and new statistics."""
    carry = running.Carry(self, stats, train)

    def own(number):
      return None if key is None else jax.random.fold_in(key, number)

    maps = carry(self.base, x, key=own(0))
    overview = carry(self.overview, carry(self.merge, maps[-1]), key=own(1))
    y, raw, context = self._guided(maps[-1], overview)
    y = carry(self.focus[0], y, context=context, key=own(2))
    z = carry(self.focus[1], self._merged(carry, y), context=raw, key=own(3))
    return carry.result(([*maps[:-1], y, z], overview))

  def __call__(self, x: Float[Array, "B H W C"], **options) -> Any:
    """Returns the map (B, h, w, D) of every stage, and new statistics; see `both`."""
    found = self.both(x, **options)
    if options.get("stats") is None:
      return found[0]
    (maps, _), stats = found
    return maps, stats

  def weights(self, x: Float[Array, "B H W C"], *, stats: Any = None) -> list[Array]:
    """Returns the weights (B, N, T, T) of the guided blocks' windows."""
    carry = running.Carry(self, stats, False)
    x = carry(self.base, x)[-1]
    overview = carry(self.overview, carry(self.merge, x))
    y, raw, context = self._guided(x, overview)
    first, second = self.focus
    found = first.weights(y, stats=carry.of(first), context=context)
    y = self._merged(carry, carry(first, y, context=context))
    return found + second.weights(y, stats=carry.of(second), context=raw)

  def trace(
    self,
    x: Float[Array, "B H W C"],
    *,
    edit: Edit | Edits | None = None,
    stats: Any = None,
  ) -> Trace:
    """Returns the traces of all stages, base, overview and focus; heads are None."""
    carry = running.Carry(self, stats, False)
    found = self.base.trace(x, edit=edit, stats=carry.of(self.base))
    maps = found.output

    def more(stage, y, **context):
      own = {"stats": carry.of(stage), "first": len(found.heads)}
      return found + stage.trace(y, edit=edit, **own, **context)

    found = more(self.overview, carry(self.merge, maps[-1]))
    y, raw, context = self._guided(maps[-1], found.output)
    found = more(self.focus[0], y, context=context)
    y = found.output
    found = more(self.focus[1], self._merged(carry, y), context=raw)
    output = [*maps[:-1], y, found.output]
    return Trace(
      found.hidden, found.heads, found.mixed, output, found.attended, found.feeds
    )

  def _guided(self, x, overview):
    """Returns the first guided map, the context, and the context at its size."""
    raw = self.reduce(overview)
    context = resample.bilinear(raw, x.shape[1:3])
    return jnp.concatenate([x, context], axis=-1), raw, context

  def _merged(self, carry, y):
    """Returns a guided map of half the sides."""
    parts = zip(self.merges, (y[..., : self.dim], y[..., self.dim :]))
    return jnp.concatenate([carry(merge, part) for merge, part in parts], axis=-1)


class Network(Classifier):
  """A classifier with a second one on the overview, which only training sees.

  With it, a call with `train` gives (logits, the auxiliary logits) in place of logits.

  Args:
    stem: images to the first map.
    stages: `Focused`.
    head: (B, D) to (B, classes).
    pool: the last map to (B, D).
    auxiliary: the overview to (B, classes); None for no second classifier.
  """

  def __init__(
    self, stem: Any, stages: Focused, head: Any, *, pool: Any, auxiliary: Any
  ):
    super().__init__(stem, stages, head, pool=pool)
    self.auxiliary = auxiliary

  def __call__(
    self,
    images: Float[Array, "B H W C"],
    *,
    key: Key[Array, ""] | None = None,
    stats: Any = None,
    train: bool = False,
  ) -> Any:
    """Returns logits, see `Classifier`; or both logits in training with `auxiliary`."""
    if self.auxiliary is None or not train:
      return super().__call__(images, key=key, stats=stats, train=train)
    carry = running.Carry(self, stats, train)
    own = {"key": key, "stats": carry.of(self.stages), "train": train}
    found, new = running.apply(self.stages.both, self._embedded(carry, images), **own)
    carry.keep(self.stages, new)
    maps, overview = found
    logits = self._classified(carry, maps, key)
    return carry.result((logits, carry(self.auxiliary, overview)))


class Auxiliary(nnx.Module):
  """A norm, the mean over the map, and a linear map to classes."""

  def __init__(self, dim: int, classes: int, *, rngs: nnx.Rngs):
    self.norm, self.linear = BatchNorm(dim), linear(dim, classes, rngs=rngs)

  def __call__(self, x, *, stats=None, train=False):
    """Returns logits (B, classes), and new statistics."""
    carry = running.Carry(self, stats, train)
    return carry.result(self.linear(carry(self.norm, x).mean(axis=(1, 2))))


class Last(nnx.Module):
  """A projection of the last map, SiLU, and the mean over the map."""

  def __init__(self, below: int, dim: int, *, rngs: nnx.Rngs):
    self.project = Projection(below, dim, rngs=rngs)

  def __call__(self, x, *, key=None, stats=None, train=False):
    """Returns the pooled map (B, D), and new statistics."""
    del key  # nothing is dropped
    carry = running.Carry(self, stats, train)
    return carry.result(jax.nn.silu(carry(self.project, x)).mean(axis=(1, 2)))


class Stem(nnx.Module):
  """Four convolutions with norms; GELU between them."""

  def __init__(self, channels: int, dim: int, strides, *, rngs: nnx.Rngs):
    widths = channels, dim // 2, dim // 2, dim, dim
    steps = strides[0], 1, strides[1], 1
    self.convolutions = nnx.List(
      Convolution(below, width, step, rngs=rngs)
      for below, width, step in zip(widths, widths[1:], steps)
    )

  def __call__(self, x, *, stats=None, train=False):
    """Returns the first map, and new statistics."""
    carry = running.Carry(self, stats, train)
    x = carry(self.convolutions[0], x)
    for convolution in self.convolutions[1:]:
      x = carry(convolution, gelu(x))
    return carry.result(x)
