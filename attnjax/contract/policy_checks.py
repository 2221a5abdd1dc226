"""Checks of the form "policy": a tiny language model decodes rows under a policy."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attnjax.contract import registry
from attnjax.contract.subject import Subject, close, require
from attnjax.core import policies
from attnjax.core.cache import KeyValueCache, RecurrentCache

ROW, PROMPT, LAYERS = 24, 9, 3
_VOCAB, _HEADS, _GROUPS, _SIZE = 13, 4, 2, 4


def is_static(subject: Subject) -> None:
  """Checks that a policy is frozen, hashable and equal to its copy."""
  policy = subject.module.Policy
  require(dataclasses.is_dataclass(policy), "Policy is no dataclass")
  fields = dataclasses.fields(policy)
  given = [f.default is not dataclasses.MISSING for f in fields]
  require(all(given), "a field of Policy has no default")
  made = _policy(subject, "POLICY")
  require(hash(made) == hash(dataclasses.replace(made)), "copies differ")
  try:
    setattr(made, fields[0].name, 0)
  except dataclasses.FrozenInstanceError:
    return
  raise AssertionError("Policy is not frozen")


def chooses_places_once(subject: Subject) -> None:
  """Checks that chosen places are distinct and taken, the newest one among them."""
  policy = _policy(subject, "POLICY").fitted(LAYERS)
  draw, shape = np.random.default_rng(0).standard_normal, (2, ROW - 1)
  q = jnp.asarray(draw((*shape, _HEADS, _SIZE)), jnp.float32)
  k = jnp.asarray(draw((*shape, _GROUPS, _SIZE)), jnp.float32)
  ids = jnp.zeros(shape, jnp.int32).at[1, ::3].set(-1)
  count, choices = _chosen(policy, q, k, ids)
  require(not all(choice.dense for choice in choices), "all layers are dense")
  for choice in choices:
    groups = choice.places.shape[1]
    require(groups in (1, _GROUPS, _HEADS), f"{groups} choices for {_HEADS} heads")
    for row, group in np.ndindex(choice.real.shape[:2]):
      chosen, taken = choice.places[row, group][choice.real[row, group]], count[row]
      if choice.dense:
        continue
      require(len(set(chosen)) == len(chosen), f"{chosen}: a place twice")
      require(((chosen >= 0) & (chosen < taken)).all(), f"{chosen} of {taken} places")
      require(taken - 1 in chosen, f"{chosen}: the newest of {taken} is missing")


@functools.partial(jax.jit, static_argnums=0)
def _choices(policy, q, k, ids):
  held = (_GROUPS, _SIZE), (_GROUPS, _SIZE)
  tokens = KeyValueCache.empty(len(ids), ROW, *held, jnp.float32)
  cache = dataclasses.replace(policies.under(policy, tokens), policy=policy)
  cache, past = cache.appended(q, k, k, ids)
  shared, choices = policy.start(len(ids), ROW), []
  for index in range(LAYERS):
    choice, _, shared = policy.choose(q[:, -1], past, cache.own, shared, index)
    choices.append(choice)
  return past.count, choices


def _chosen(policy, q, k, ids):
  """Returns the counts of places and the choices of all layers, as NumPy arrays."""
  return jax.tree.map(np.asarray, _choices(policy, q, k, ids))


def covers_the_row(subject: Subject) -> None:
  """Checks that a covering policy gives the whole cache's results, a tiny one not."""
  tokens, _ = _rows()
  want = _by_token(None, tokens)
  got = _by_token(_policy(subject, "COVERING"), tokens, 0)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  left = _by_token(_policy(subject, "POLICY"), tokens, 0)
  far = jnp.abs(left - want).max()
  require(far > 1e-3, f"{subject.module.POLICY} leaves no key out")


def decodes_by_any_cut(subject: Subject) -> None:
  """Checks that cuts of a row, also within the prompt, are one token after another."""
  policy, (tokens, context) = _policy(subject, "POLICY"), _rows()
  for given in ({}, context):
    want = _by_token(policy, tokens, PROMPT, **given)
    close(_by_chunk(policy, tokens, PROMPT, **given), want, "a cut in the prompt")
  half = ROW // 2
  want = _by_token(policy, tokens, half)
  close(_by_chunk(policy, tokens, None), want, "the first step is the prompt")
  other = _by_token(policy, tokens, 0)[:, half:]
  require(jnp.abs(other - want[:, half:]).max() > 1e-4, "the prompt is not dense")


def skips_padding_and_separates_documents(subject: Subject) -> None:
  """Checks that a padded row of two documents is decoded as each of them alone."""
  policy, (tokens, context) = _policy(subject, "POLICY"), _rows()
  want = _by_token(policy, tokens, 0)
  ids = np.where(context["valid"], context["segment_ids"], -1)[0]
  row, parts = np.array(tokens), []
  for number in (0, 1):
    where = np.flatnonzero(ids == number)
    row[0, where] = tokens[number, : len(where)]
    parts.append((where, want[number, : len(where)]))
  got = _by_token(policy, jnp.asarray(row), 0, **context)
  for where, alone in parts:
    close(got[0, where], alone)


def keeps_a_cache_of_arrays(subject: Subject) -> None:
  """Checks that a step keeps the shapes and types of a cache, here bfloat16."""
  model, (tokens, _) = _model(), _rows()
  cache = model.init_cache(2, ROW, jnp.bfloat16)
  cache = policies.under(_policy(subject, "POLICY"), cache)
  for size in (1, 5):
    part = tokens[:, :size]
    logits, after = jax.eval_shape(lambda m, c, t: m.step(t, c), model, cache, part)
    require(logits.shape == (2, size, _VOCAB), f"{logits.shape}")
    kinds = [jax.tree.map(lambda x: (x.shape, x.dtype), t) for t in (after, cache)]
    require(kinds[0] == kinds[1], f"{kinds[0]} after {kinds[1]}")


def refuses_other_caches(subject: Subject) -> None:
  """Checks that a cache without keys is refused by its name."""
  policy = _policy(subject, "POLICY")
  for cache in (RecurrentCache.empty(jnp.zeros((2, 3))), ((jnp.zeros(2), ()),)):
    try:
      policies.under(policy, cache)
    except NotImplementedError as error:
      require("KeyValueCache" in str(error), f"{error}")
    else:
      raise AssertionError(f"{cache} is not refused")


def counts_what_it_reads(subject: Subject) -> None:
  """Checks that reads are those of the whole cache when it is covered, else fewer."""
  whole = _policy(subject, "COVERING").fitted(LAYERS).reads(ROW, LAYERS)[0]
  require(whole == ROW * LAYERS, f"{whole} of {ROW * LAYERS} keys, all covered")
  some = _policy(subject, "POLICY").fitted(LAYERS).reads(ROW, LAYERS)[0]
  require(0 < some < whole, f"{some} of {whole} keys")


def decoded(subject: Subject) -> Any:
  """Returns the logits of rows that are decoded under the small policy."""
  tokens, context = _rows()
  policy = _policy(subject, "POLICY")
  return [_by_token(policy, tokens, PROMPT, **given) for given in ({}, context)]


def _policy(subject: Subject, options: str) -> Any:
  return subject.module.Policy(**getattr(subject.module, options))


def _rows():
  """Returns tokens (2, ROW), and a context in which the first row has two documents."""
  tokens = np.random.default_rng(2).integers(0, _VOCAB, (2, ROW))
  ids, valid = np.zeros((2, ROW), np.int32), np.ones((2, ROW), bool)
  ids[0, 11:] = 1
  valid[0, [0, 1, 5, 12, 13, 20]] = False
  valid[1, -3:] = False
  given = {"segment_ids": jnp.asarray(ids), "valid": jnp.asarray(valid)}
  return jnp.asarray(tokens, jnp.int32), given


@functools.cache
def _model() -> Any:
  """Returns a tiny language model of softmax attention, its scores sharp.

  It has no positions, so that padding within a document does not move its tokens apart.
  """
  from attnjax.models import language

  options = {"heads": _HEADS, "kv_heads": _GROUPS, "rope_theta": 0.0}
  build = registry.constructor("dot_product", options, language.FORMS)
  sizes = {"dim": _HEADS * _SIZE, "depth": LAYERS, "mlp_ratio": 0.0}
  model = language.Model([build], vocab=_VOCAB, **sizes, rngs=nnx.Rngs(0))
  return jax.tree.map(lambda leaf: 12 * leaf if leaf.ndim > 2 else leaf, model)


def _cache(policy, prompt):
  return policies.under(policy, _model().init_cache(2, ROW), prompt=prompt)


def _context(tokens, context):
  every = {"segment_ids": jnp.zeros_like(tokens), "valid": jnp.ones(tokens.shape, bool)}
  return every | context


@jax.jit
def _scanned(model, cache, tokens, context):
  def one(cache, part):
    token, own = part
    logits, cache = model.step(token, cache, **own)
    return cache, logits[:, 0]

  parts = jax.tree.map(lambda y: y.T[..., None], (tokens, context))
  return jax.lax.scan(one, cache, parts)[1].swapaxes(0, 1)


@jax.jit
def _step(model, cache, tokens, context):
  return model.step(tokens, cache, **context)


def _by_token(policy, tokens, prompt=None, **context):
  """Returns the logits of a row, decoded in a scan over its tokens."""
  given = _context(tokens, context)
  return _scanned(_model(), _cache(policy, prompt), tokens, given)


def _by_chunk(policy, tokens, prompt, **context):
  """Returns the logits of a row, decoded in two halves."""
  cache, out, half = _cache(policy, prompt), [], ROW // 2
  given = _context(tokens, context)
  for part in (slice(half), slice(half, None)):
    cut = jax.tree.map(lambda y, part=part: y[:, part], (tokens, given))
    logits, cache = _step(_model(), cache, *cut)
    out.append(logits)
  return jnp.concatenate(out, axis=1)


POLICIES = (
  is_static,
  chooses_places_once,
  covers_the_row,
  decodes_by_any_cut,
  skips_padding_and_separates_documents,
  keeps_a_cache_of_arrays,
  refuses_other_caches,
  counts_what_it_reads,
)
