"""Checks of the form "policy": a tiny language model decodes rows under a policy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.contract import policy_runs as runs
from attnjax.contract.subject import Subject, close, require
from attnjax.core import policies
from attnjax.core.cache import KeyValueCache, RecurrentCache
from attnjax.ops import policy_prefill


def is_static(subject: Subject) -> None:
  """Checks that a policy is frozen, hashable and equal to its copy."""
  policy = subject.module.Policy
  require(dataclasses.is_dataclass(policy), "Policy is no dataclass")
  fields = dataclasses.fields(policy)
  given = [f.default is not dataclasses.MISSING for f in fields]
  require(all(given), "a field of Policy has no default")
  made = runs.made(subject, "POLICY")
  require(hash(made) == hash(dataclasses.replace(made)), "copies differ")
  try:
    setattr(made, fields[0].name, 0)
  except dataclasses.FrozenInstanceError:
    return
  raise AssertionError("Policy is not frozen")


def chooses_places_once(subject: Subject) -> None:
  """Checks that chosen places are distinct and taken, the newest one among them."""
  policy = runs.made(subject, "POLICY").fitted(runs.LAYERS)
  draw, shape = np.random.default_rng(0).standard_normal, (2, runs.ROW - 1)
  q = jnp.asarray(draw((*shape, runs.HEADS, runs.SIZE)), jnp.float32)
  k = jnp.asarray(draw((*shape, runs.GROUPS, runs.SIZE)), jnp.float32)
  ids = jnp.zeros(shape, jnp.int32).at[1, ::3].set(-1)
  count, choices = _chosen(policy, q, k, ids)
  chooses = policy_prefill.chooses(policy) or not _dense(choices)
  require(chooses, "all layers are dense")
  for choice in choices:
    groups = choice.places.shape[1]
    require(
      groups in (1, runs.GROUPS, runs.HEADS), f"{groups} choices for {runs.HEADS} heads"
    )
    for row, group in np.ndindex(choice.real.shape[:2]):
      chosen, taken = choice.places[row, group][choice.real[row, group]], count[row]
      if choice.dense:
        continue
      require(len(set(chosen)) == len(chosen), f"{chosen}: a place twice")
      require(((chosen >= 0) & (chosen < taken)).all(), f"{chosen} of {taken} places")
      require(taken - 1 in chosen, f"{chosen}: the newest of {taken} is missing")


@functools.partial(jax.jit, static_argnums=0)
def _choices(policy, q, k, ids):
  held = (runs.GROUPS, runs.SIZE), (runs.GROUPS, runs.SIZE)
  tokens = KeyValueCache.empty(len(ids), runs.ROW, *held, jnp.float32, runs.HEADS)
  cache = dataclasses.replace(policies.under(policy, tokens), policy=policy)
  cache, past = cache.appended(q, k, k, ids)
  shared, choices = policy.start(len(ids), runs.ROW), []
  for index in range(runs.LAYERS):
    choice, _, shared = policy.choose(q[:, -1], past, cache.own, shared, index)
    choices.append(choice)
  return past.count, choices


def _chosen(policy, q, k, ids):
  """Returns the counts of places and the choices of all layers, as NumPy arrays."""
  return jax.tree.map(np.asarray, _choices(policy, q, k, ids))


def covers_the_row(subject: Subject) -> None:
  """Checks that a covering policy gives the whole cache's results, a tiny one not."""
  tokens, _ = runs.rows()
  want, covering = runs.by_token(None, tokens), runs.made(subject, "COVERING")
  prompts = (0,) if policy_prefill.chooses(covering) else (0, runs.PROMPT)
  for prompt in prompts:
    got = runs.by_token(covering, tokens, prompt)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  if _decodes_densely(subject):
    return
  left = runs.by_token(runs.made(subject, "POLICY"), tokens, prompts[-1])
  far = jnp.abs(left - want).max()
  require(far > 1e-3, f"{subject.module.POLICY} leaves no key out")


def decodes_by_any_cut(subject: Subject) -> None:
  """Checks that cuts of a row, also within the prompt, are one token after another."""
  policy, (tokens, context) = runs.made(subject, "POLICY"), runs.rows()
  if policy_prefill.chooses(policy):
    return  # its prompt has no cuts; `prefill_checks` has those after it
  for given in ({}, context):
    want = runs.by_token(policy, tokens, runs.PROMPT, **given)
    close(
      runs.by_chunk(policy, tokens, runs.PROMPT, **given), want, "a cut in the prompt"
    )
  half = runs.ROW // 2
  want = runs.by_token(policy, tokens, half)
  close(runs.by_chunk(policy, tokens, None), want, "the first step is the prompt")
  other = runs.by_token(policy, tokens, 0)[:, half:]
  require(jnp.abs(other - want[:, half:]).max() > 1e-4, "the prompt is not dense")


def skips_padding_and_separates_documents(subject: Subject) -> None:
  """Checks that a padded row of two documents is decoded as each of them alone."""
  policy, (tokens, context) = runs.made(subject, "POLICY"), runs.rows()
  ids = np.where(context["valid"], context["segment_ids"], -1)[0]
  places, row = [np.flatnonzero(ids == number) for number in (0, 1)], np.array(tokens)
  for number, where in enumerate(places):
    row[0, where] = tokens[number, : len(where)]
  # A prompt that ends within the first document, and one in the second before padding.
  for prompt in (0,) if policy_prefill.chooses(policy) else (0, 7, 20):
    got = runs.by_token(policy, jnp.asarray(row), prompt, **context)
    for number, where in enumerate(places):
      alone = runs.by_token(policy, tokens, int((where < prompt).sum()))
      close(got[0, where], alone[number, : len(where)], f"a prompt of {prompt}")


def keeps_a_cache_of_arrays(subject: Subject) -> None:
  """Checks that a step keeps the shapes and types of a cache, here bfloat16."""
  model, (tokens, _) = runs.model(), runs.rows()
  cache = model.init_cache(2, runs.ROW, jnp.bfloat16)
  cache = policies.under(runs.made(subject, "POLICY"), cache)
  for size in (1, 5):
    part = tokens[:, :size]
    logits, after = jax.eval_shape(lambda m, c, t: m.step(t, c), model, cache, part)
    require(logits.shape == (2, size, runs.VOCAB), f"{logits.shape}")
    kinds = [jax.tree.map(lambda x: (x.shape, x.dtype), t) for t in (after, cache)]
    require(kinds[0] == kinds[1], f"{kinds[0]} after {kinds[1]}")


def refuses_other_caches(subject: Subject) -> None:
  """Checks that a cache without keys is refused by its name."""
  policy = runs.made(subject, "POLICY")
  for cache in (RecurrentCache.empty(jnp.zeros((2, 3))), ((jnp.zeros(2), ()),)):
    try:
      policies.under(policy, cache)
    except NotImplementedError as error:
      require("KeyValueCache" in str(error), f"{error}")
    else:
      raise AssertionError(f"{cache} is not refused")


def counts_what_it_reads(subject: Subject) -> None:
  """Checks that reads are those of the whole cache when it is covered, else fewer."""
  whole = (
    runs.made(subject, "COVERING").fitted(runs.LAYERS).reads(runs.ROW, runs.LAYERS)[0]
  )
  require(
    whole == runs.ROW * runs.LAYERS,
    f"{whole} of {runs.ROW * runs.LAYERS} keys, all covered",
  )
  some = (
    runs.made(subject, "POLICY").fitted(runs.LAYERS).reads(runs.ROW, runs.LAYERS)[0]
  )
  least = some < whole or _decodes_densely(subject)
  require(0 < some <= whole and least, f"{some} of {whole} keys")


def decoded(subject: Subject) -> list[jax.Array]:
  """Returns the logits of rows that are decoded under each small policy."""
  each = [Subject(one, subject.form) for one in runs.parts(subject.module).values()]
  return [row for one in each for row in _decoded(one)]


def _decoded(subject: Subject) -> list[jax.Array]:
  policy, (tokens, context) = runs.made(subject, "POLICY"), runs.rows()
  if policy_prefill.chooses(policy):
    rows = [runs.as_prompt(policy, tokens, **given) for given in ({}, context)]
    return [*rows, runs.by_token(policy, tokens, 0)]
  prompt = runs.PROMPT
  return [runs.by_token(policy, tokens, prompt, **given) for given in ({}, context)]


def _dense(choices) -> bool:
  return all(bool(choice.dense) for choice in choices)


def _decodes_densely(subject: Subject) -> bool:
  """Returns whether a policy chooses in the prompt's step alone."""
  policy = runs.made(subject, "POLICY").fitted(runs.LAYERS)
  if not policy_prefill.chooses(policy):
    return False
  q, ids = (
    jnp.ones((1, runs.ROW - 1, runs.HEADS, runs.SIZE)),
    jnp.zeros((1, runs.ROW - 1), jnp.int32),
  )
  return _dense(_chosen(policy, q, q[:, :, : runs.GROUPS], ids)[1])


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
