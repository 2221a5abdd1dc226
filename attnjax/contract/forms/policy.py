"""The form "policy": what a cache keeps in sight of later queries; hosts that decode.

A system's module has

  Policy    a frozen dataclass of numbers, strings and tuples of them, every field with
            a default, so that it is static under `jax.jit`; see the Protocol
  POLICY    options of a tiny Policy that leaves keys out within 24 tokens of 3 layers
  COVERING  those of one whose capacity is 24 tokens or more, also in a prompt

or, if it has several policies, POLICIES, a dict of their names and classes; POLICY and
COVERING are then dicts of these names and of options.

  cache = attnjax.policies.under(Policy(...), model.init_cache(batch, length))
  logits, cache = model.step(prompt, cache)
  logits, cache = model.step(token, cache)

The queries of the prompt see all keys; the prompt is the first step, or the first
`under(..., prompt=P)` tokens. For each later query and each layer the policy chooses
logical places: place i is the i-th real token of the row's current document. Shapes are
static. Any cut of a stream gives the results of one token after the other, padding
changes nothing, and a document in a packed row is decoded as it is alone.

A policy whose capacity covers the row gives the results of the whole cache: bit by bit
where a layer takes all keys with a mask ("masked"), and to the rounding of float32
where it takes the chosen keys alone ("gathered"), since a sum over another number of
terms may be added up in another order. `attnjax.ops.policy_step` says which layers
take what.

A policy may choose in the prompt's step, too: it then has `prefill`, see `Prefill`,
and `choose` may be dense. Its prompt is the first step, undivided, since a selection
depends on all of it; `under(..., prompt=P)` refuses another one. The policy is asked
for each document of the prompt as if it were alone, and padding changes nothing. The
cache keeps all keys: what later queries of a layer see does not depend on what those of
the prompt saw.

A policy counts what it reads by `reads(places, layers)`: the keys that a query at that
many places reads in all layers, and what it reads to choose them, in keys. It may take
its budget as a share of a row's keys, by `of_fraction`, see `Budgeted`: comparisons at
equal budgets, such as `experiments.frontier`, need no other option of it.
"""

from types import ModuleType
from typing import Any, Protocol

from jaxtyping import Array, Float, Int

from attnjax.contract import budget_checks, policy_checks, policy_runs, prefill_checks
from attnjax.core.masks import Mask
from attnjax.core.policies import Choice, News, Past


class Policy(Protocol):
  """A cache policy, made by `Policy(**options)`."""

  def fitted(self, layers: int) -> "Policy":
    """Returns the policy for a model of that many layers.

    Raises:
      ValueError: if it does not fit.
    """
    ...

  def init(self, batch: int, length: int, heads: int, size: int, dtype: Any) -> Any:
    """Returns a layer's own arrays beside its keys (B, L, K, H), before any token."""
    ...

  def start(self, batch: int, length: int) -> Any:
    """Returns what goes into the first layer, () if layers share nothing."""
    ...

  def observe(self, own: Any, news: News) -> Any:
    """Returns a layer's arrays after the tokens of a step; the prompt's also pass here.

    Any cut of a row into steps must give equal arrays.
    """
    ...

  def choose(
    self, q: Float[Array, "B N H"], past: Past, own: Any, shared: Any, index: Any
  ) -> tuple[Choice, Any, Any]:
    """Returns the choice for a token's query, the layer's arrays, and what it shares.

    The newest place must be among the chosen ones. `index`, the number of the layer,
    may be traced.
    """
    ...

  def reads(self, places: int, layers: int) -> tuple[float, float]:
    """Returns keys that a query reads in all layers: attended to, and to choose."""
    ...


class Grouped(Protocol):
  """A cache policy that keeps queries: it is told how many heads they have."""

  def grouped(self, group: int) -> Any:
    """Returns the policy for a layer, before `init`.

    Args:
      group: N / K, query heads for each key head; 0 if the layer's cache does not tell.

    Raises:
      NotImplementedError: if it does not, and the policy cannot do without.
    """
    ...


class Prefill(Protocol):
  """A cache policy that also chooses among the keys of a prompt."""

  def prefill(
    self,
    q: Float[Array, "B T N H"],
    k: Float[Array, "B T K H"],
    count: Int[Array, "B"],
    index: Any,
  ) -> Mask:
    """Returns which keys the queries of a prompt see, a mask of (B, N, T, T).

    A token sees itself. The layer adds that no token sees later ones, so a mask need
    not say it. A list of key blocks for each block of queries and head,
    `attnjax.core.masks.Blocks`, saves the time of the blocks that are not listed.

    Args:
      q: queries of a document, at the places 0, 1, 2, ...; 0 from `count` on.
      k: keys, likewise.
      count: the document's tokens; T holds the longest of the batch, so that nothing
        may depend on it.
      index: the number of the layer; it may be traced.
    """
    ...


class Budgeted(Protocol):
  """A cache policy whose budget can be a share of a row's keys."""

  def of_fraction(self, fraction: float, length: int) -> Any:
    """Returns the policy with a budget, its other options kept.

    A query at `length` places reads at most fraction * length keys in a layer that
    chooses, or 1 if that is less, and all keys with a fraction of 1. Units such as
    pages become smaller where the budget would hold few of them.

    Args:
      fraction: above 0, at most 1; see `attnjax.core.budgets`.
      length: places of a row, prompt and decoded tokens together.

    Raises:
      ValueError: if one is out of its range.
    """
    ...

  def prompt_reads(self, places: int, layers: int) -> tuple[float, float]:
    """Returns pairs of a query and a key in a prompt: attended to, and to choose.

    In all layers, for a prompt of that many places. A policy without it, and without
    `prefill`, has places (places + 1) / 2 of them in each layer.
    """
    ...

  def decoded_reads(self, prompt: int, places: int, layers: int) -> tuple[float, float]:
    """Returns what `reads` does, of a query behind a prompt of that many places.

    Of policies that treat the keys of the prompt and later ones differently.
    """
    ...


def kinds(slug: str, module: ModuleType) -> dict[str, type]:
  """Returns the classes of a system's policies: {slug: Policy}, or POLICIES.

  The names of POLICIES get the slug before them: {"sparse_frontier.quest": Quest, ...}.
  """
  if hasattr(module, "POLICIES"):
    return {f"{slug}.{name}": kind for name, kind in module.POLICIES.items()}
  return {slug: module.Policy}


_ALL = *policy_checks.POLICIES, *prefill_checks.PREFILL, *budget_checks.BUDGETS
CHECKS = tuple(map(policy_runs.of_each, _ALL))
outputs = policy_checks.decoded
