"""The layer for hosts: ContMix of one map, between the host's norm and residual."""

from typing import Any, Unpack

from flax import nnx
from jaxtyping import Array, Float

from attnjax.contract import check_known
from attnjax.contract import context as contexts
from attnjax.contract.context import Context, Heads
from attnjax.nn import running, unseen
from attnjax.variants.local.overlock.contmix import ContMix

FORMS = ("image",)


class Layer(nnx.Module):
  """ContMix of a normalised map, see `ContMix`; the residual is the host's.

  Args:
    dim: D.
    form: "image".
    heads: half of the groups; 4 heads divide D.
    window: side of the large windows and of the convolution.
    small_window: side of the small windows.
    regions: of the map on each axis, whose means are seen.
    norm: "layer", or the paper's "batch", whose running statistics are an argument and
      a result, see `attnjax.nn.running`.
    impl: as in `mix`.
    rngs: for the parameters.
  """

  init_stats = running.init_stats

  def __init__(
    self,
    dim: int,
    *,
    form: str = "image",
    heads: int = 2,
    window: int = 7,
    small_window: int = 5,
    regions: int = 7,
    norm: str = "layer",
    impl: str = "auto",
    rngs: nnx.Rngs,
  ):
    check_known("form", form, FORMS)
    self.operator = ContMix(
      dim,
      heads=heads,
      window=window,
      small_window=small_window,
      regions=regions,
      norm=norm,
      spread=0.02,
      impl=impl,
      rngs=rngs,
    )

  def project(
    self,
    x: Float[Array, "B H W D"],
    *,
    stats: Any = None,
    **context: Unpack[Context],
  ) -> Heads:
    """Returns the queries, the regions' keys and the values, for evaluation."""
    return self._project(running.Carry(self, stats, False), x, context)

  def mix(self, heads: Heads) -> Float[Array, "B H W N E"]:
    """Returns the windows' weighted means."""
    return self.operator.mix(heads)

  def merge(
    self, out: Array, heads: Heads, *, stats: Any = None, train: bool = False
  ) -> Any:
    """Returns the excited, gated and projected sum, and new statistics."""
    carry = running.Carry(self, stats, train)
    return carry.result(self._merge(carry, out, heads))

  def __call__(
    self,
    x: Float[Array, "B H W D"],
    *,
    stats: Any = None,
    train: bool = False,
    **context: Unpack[Context],
  ) -> Any:
    """Returns the layer's result for x, in its shape, and new statistics if given some.

    See `attnjax.contract.forms` for the context.
    """
    carry = running.Carry(self, stats, train)
    if 0 in x.shape:
      return carry.result(unseen.nothing(carry.plain(self), x))
    heads = self._project(carry, x, context)
    return carry.result(self._merge(carry, self.mix(heads), heads))

  def weights(
    self, x: Float[Array, "B H W D"], *, stats: Any = None, **context: Unpack[Context]
  ) -> Float[Array, "B N T T"]:
    """Returns the weights of all pixels, see `ContMix`."""
    return self.operator.weights(self.project(x, stats=stats, **context))

  def _project(self, carry, x, context):
    tokens = contexts.accept(x, context, form="image")
    return self._run(carry, self.operator.project, tokens)

  def _merge(self, carry, out, heads):
    return self._run(carry, self.operator.merge, out, heads)

  def _run(self, carry, part, *given):
    """Calls a part of the operator with the operator's statistics."""
    own = {"stats": carry.of(self.operator), "train": carry.train}
    y, new = running.apply(part, *given, **own)
    carry.keep(self.operator, new)
    return y
