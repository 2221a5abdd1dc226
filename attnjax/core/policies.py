"""Cache policies: which keys of a cache the next token's query sees.

A policy is a frozen dataclass of numbers, static under `jax.jit`; see
`attnjax.contract.forms.policy`. A cache of keys and values that no policy is on is read
whole. `under` puts a policy on all layers of a model:

  cache = attnjax.policies.under(policy, model.init_cache(batch, length))
  logits, cache = model.step(prompt, cache)       # dense
  logits, cache = model.step(token, cache)        # each query sees chosen keys

The cache keeps all keys. The policy chooses by logical places: place i is the i-th real
token of the row's current document, wherever the cache holds it. So pages begin where a
document begins, padding fills none, and rows may differ in length. Documents are runs
of equal segment ids.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from attnjax.core.cache import KeyValueCache
from attnjax.core.choices import Choice, News
from attnjax.core.exported import serializable

__all__ = [
  "Choice",
  "News",
  "Past",
  "PolicyCache",
  "handed",
  "of_tokens",
  "start",
  "under",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Past:
  """The tokens up to a new one, itself included, as a policy reads them.

  Attributes:
    tokens: the cache of the layer, in the order of arrival.
    slots: int32, (B, L), the slot in the cache of each logical place.
    count: int32, (B,), the number of places that are taken.
    real: bool, (B,), whether the new token is no padding.
  """

  tokens: KeyValueCache
  slots: Any
  count: Any
  real: Any

  def in_order(self, x: Array) -> Array:
    """Returns x (B, ..., L) by logical places; what lies after `count` is anything."""
    slots = self.slots.reshape(self.slots.shape[0], *(1,) * (x.ndim - 2), -1)
    return jnp.take_along_axis(x, slots, axis=-1)

  def taken(self) -> Bool[Array, "B L"]:
    """Returns where a logical place has a token."""
    return jnp.arange(self.slots.shape[1]) < self.count[:, None]

  def logits(self, q: Float[Array, "B N H"]) -> Float[Array, "B N L"]:
    """Returns H^-0.5 q . k of all places in float32, -inf where there is no token."""
    k = self.tokens.k
    B, N, H = q.shape
    q = q.reshape(B, k.shape[2], -1, H)
    product = jnp.einsum(
      "bkgh,bskh->bkgs", q, k.astype(q.dtype), preferred_element_type=jnp.float32
    )
    found = self.in_order(H**-0.5 * product.reshape(B, N, -1))
    return jnp.where(self.taken()[:, None], found, -jnp.inf)


@serializable
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyCache(KeyValueCache):
  """All keys and values, with a policy that chooses among them.

  Attributes:
    keys: as in KeyValueCache, and so are all that are not named here.
    policy: static.
    slots: int32, (B, L), the slot of each logical place.
    count: int32, (B,), places that are taken.
    document: int32, (B,), the id of the current document, -1 before the first token.
    prompt: int32, (), tokens whose queries see everything; -1 before the first step, if
      that is the prompt.
    own: the policy's own arrays.
    shared: within a step, what goes from layer to layer; else None.
  """

  policy: Any = dataclasses.field(metadata={"static": True})
  slots: Any
  count: Any
  document: Any
  prompt: Any
  own: Any
  shared: Any = None

  @property
  def tokens(self) -> KeyValueCache:
    """Returns the keys and values without the policy."""
    return KeyValueCache(**_fields(self))

  def append(self, k, v, segment_ids=None) -> KeyValueCache:
    """Raises NotImplementedError: a layer with a step of its own asks no policy."""
    raise NotImplementedError(
      f"{type(self.policy).__module__}: a layer whose step is not"
      " attnjax.ops.self_attention.step asks no policy for its keys"
    )

  def appended(self, q, k, v, ids) -> tuple["PolicyCache", Past]:
    """Returns the cache with T more tokens, and the past of the last one.

    Args:
      q: (B, T, N, H).
      k: (B, T, K, H).
      v: (B, T, K, V).
      ids: int32, (B, T), the tokens' documents, -1 at padding.
    """
    (B, T), L = ids.shape, self.slots.shape[1]
    slot = self.tokens.length + jnp.arange(T, dtype=jnp.int32)
    tokens = self.tokens.append(k, v, ids)
    places, count, document, fresh = self._placed(ids)
    slots = self.slots.at[jnp.arange(B)[:, None], places].set(
      jnp.broadcast_to(slot, (B, T)), mode="drop"
    )
    news = News(q, k, jnp.minimum(places, L), places < L, fresh)
    own = self.policy.observe(self.own, news)
    new: dict[str, Any] = {"slots": slots, "count": count, "document": document}
    after = dataclasses.replace(self, **_fields(tokens), **new, own=own)
    return after, Past(tokens, slots, count, ids[:, -1] >= 0)

  def _placed(self, ids):
    """Returns (places, count, document, fresh) after tokens of these documents."""
    real = ids >= 0
    backward = jnp.where(real, ids, -1)[:, ::-1]
    first = jnp.argmax(backward >= 0, axis=1, keepdims=True)
    last = jnp.take_along_axis(backward, first, axis=1)[:, 0]
    last = jnp.where(real.any(axis=1), last, self.document)
    other = real & (ids != last[:, None])
    over = jnp.cumsum(other[:, ::-1], axis=1)[:, ::-1] > 0
    live = real & ~over
    fresh = other.any(axis=1) | (last != self.document)
    before = jnp.where(fresh, 0, self.count)
    number = jnp.cumsum(live, axis=1, dtype=jnp.int32)
    places = jnp.where(live, before[:, None] + number - 1, self.slots.shape[1])
    return places, before + number[:, -1], last, fresh


def under(policy: Any, cache: Any, *, prompt: int | None = None) -> Any:
  """Returns the cache of a model, or of one layer, with a policy on its keys.

  Args:
    policy: of the form "policy"; None leaves all keys seen.
    cache: of `init_cache`, with no tokens yet.
    prompt: tokens whose queries see everything; None: those of the first step. With a
      `prefill` None, or 0 for no prompt.

  Raises:
    NotImplementedError: if a layer's cache is no KeyValueCache, or if a prompt, which
      may come in several steps, is counted for a policy that chooses in it as a whole.
    ValueError: if the policy does not fit the number of layers.
  """
  if policy is None:
    return cache
  if isinstance(cache, PolicyCache):
    raise ValueError(f"the cache is under {cache.policy} already")
  if prompt and hasattr(policy, "prefill"):
    raise NotImplementedError(
      f"prompt = {prompt}: {type(policy).__module__} chooses among the keys of a whole"
      " prompt, which is the first step (None) or nothing (0)"
    )
  if isinstance(cache, KeyValueCache):
    return _started(policy.fitted(1), cache, prompt)
  if not isinstance(cache, tuple) or not all(isinstance(x, tuple) for x in cache):
    raise NotImplementedError(_refusal(policy, cache))
  for mixer, _ in cache:
    if not isinstance(mixer, KeyValueCache):
      raise NotImplementedError(_refusal(policy, mixer))
  policy = policy.fitted(sum(mixer.length.shape[0] for mixer, _ in cache))
  start = jax.vmap(lambda mixer: _started(policy, mixer, prompt))
  return tuple((start(mixer), conv) for mixer, conv in cache)


def _started(policy, tokens: KeyValueCache, prompt) -> PolicyCache:
  B, L, K, H = tokens.k.shape
  if hasattr(policy, "grouped"):
    policy = policy.grouped(tokens.queries // K)
  return PolicyCache(
    **_fields(tokens),
    policy=policy,
    slots=jnp.zeros((B, L), jnp.int32),
    count=jnp.zeros((B,), jnp.int32),
    document=jnp.full((B,), -1, jnp.int32),
    prompt=jnp.int32(-1 if prompt is None else prompt),
    own=policy.init(B, L, K, H, tokens.k.dtype),
  )


def _fields(tokens: KeyValueCache) -> dict[str, Any]:
  return {f.name: getattr(tokens, f.name) for f in dataclasses.fields(KeyValueCache)}


def _refusal(policy, cache) -> str:
  kind = type(cache)
  return (
    f"{type(policy).__module__} chooses among the keys of a KeyValueCache; a layer"
    f" keeps a {kind.__module__}.{kind.__name__}"
  )


def start(cache: Any, tokens: int) -> Any:
  """Returns what goes into a stack's first layer in a step of T tokens, (T, ...) each.

  None if the cache is under no policy.
  """
  first = cache[0][0]
  if not isinstance(first, PolicyCache):
    return None
  B, L = first.slots.shape[-2:]
  return of_tokens(first.policy.start(B, L), tokens)


def of_tokens(shared: Any, tokens: int) -> Any:
  """Returns arrays (T, ...): those of one token for each of T."""
  return jax.tree.map(lambda x: jnp.broadcast_to(x, (tokens, *x.shape)), shared)


def handed(step: Any, x: Array, cache: PolicyCache, shared: Any, context: Any) -> tuple:
  """Returns (y, cache, shared) of a layer's step that gets `shared` from below."""
  y, cache = step(x, dataclasses.replace(cache, shared=shared), **context)
  return y, dataclasses.replace(cache, shared=None), cache.shared
