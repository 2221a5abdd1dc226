"""The form "tokens": fewer tokens between the blocks of a host; vision.

A system's module has

  Reducer   Reducer(dim, *, rngs, **options), every option with a default; see the
            Protocol
  REDUCER   options of a Reducer that drops tokens of rows of 21
  WHOLE     options of one that drops none: the identity

  y, kept = reducer(x, scores=None, valid=None)    x (B, T, D) -> y (B, R, D)

R depends on T and the options alone. kept (B, R) int32 is the place in x that each
token of y stands for: all different, and rising over the row's real tokens, unless
`reducer.ordered` is False. A fused token, a sum of several, stands for one of them, the
heaviest, which is not in y otherwise: its padding, position and document are those of
that token, and a result for it is one for that place.

With `valid` (B, T) a row is reduced as it is alone, without its padding: values at
padding, also NaN, count as zeros and are never kept. R is for a row without padding;
the tokens of y that a shorter row leaves free are zeros behind its own, and `kept` has
padding for them, so that `valid` at `kept` is that of y.

Scores (B, T), greater for what is to stay, are the reducer's own, from x, unless the
caller gives some: those win. No gradient goes through the choice.

`reducer.refuses` names, with the reason, what of a context it cannot honour; of
`segment_ids` a reducer that ranks tokens of all documents of a row together. In a
causal host tokens must not see later ones, by no choice and no sum either:
`reducer.causal` says that no token of y depends on tokens of x behind its own place.

`attnjax.nn.stack.Stack(..., between={4: build})` has a reducer before block 4, and
gives it padding and documents; `build` is one of

  contract.reducers("4:token_reorganization:keep_ratio=0.5")     # {4: build}

and the hosts vision and language take such a text: --config.model.between=4:...
"""

from typing import Protocol

from jaxtyping import Array, Bool, Float, Int

from attnjax.contract import reducer_checks


class Reducer(Protocol):
  """A reducer of tokens, made by `Reducer(dim, *, rngs, **options)`."""

  causal: bool

  def __call__(
    self,
    x: Float[Array, "B T D"],
    *,
    scores: Float[Array, "B T"] | None = None,
    valid: Bool[Array, "B T"] | None = None,
    segment_ids: Int[Array, "B T"] | None = None,
  ) -> tuple[Float[Array, "B R D"], Int[Array, "B R"]]:
    """Returns the tokens that are left, and the place that each stands for."""
    ...


CHECKS = reducer_checks.REDUCERS
outputs = reducer_checks.reduced
