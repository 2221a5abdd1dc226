"""Checks of policies that choose in the prompt's step; others pass them unasked."""

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.contract import policy_runs as runs
from attnjax.contract.subject import Subject, close, require
from attnjax.core import policies
from attnjax.ops import policy_prefill


def selects_in_the_prompt(subject: Subject) -> None:
  """Checks a prompt's step: covered it is the dense one, tiny not, and not divided."""
  policy, (tokens, _) = runs.made(subject, "POLICY"), runs.rows()
  if not policy_prefill.chooses(policy):
    return
  want = runs.as_prompt(None, tokens)
  got = runs.as_prompt(runs.made(subject, "COVERING"), tokens)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  far = jnp.abs(runs.as_prompt(policy, tokens) - want).max()
  require(far > 1e-3, f"{subject.module.POLICY} leaves no key of a prompt out")
  try:
    runs.cached(policy, runs.PROMPT)
  except NotImplementedError as error:
    require("prompt" in str(error), f"{error}")
  else:
    raise AssertionError("a prompt in several steps is not refused")


def selects_in_each_document(subject: Subject) -> None:
  """Checks that a padded prompt of two documents is that of each of them alone."""
  policy, (tokens, context) = runs.made(subject, "POLICY"), runs.rows()
  if not policy_prefill.chooses(policy):
    return
  ids = np.where(context["valid"], context["segment_ids"], -1)[0]
  row, parts = np.array(tokens), []
  for number in (0, 1):
    where = np.flatnonzero(ids == number)
    row[0, where] = tokens[number, : len(where)]
    alone = {"valid": jnp.arange(runs.ROW) < len(where)}
    alone = {"valid": jnp.broadcast_to(alone["valid"], (2, runs.ROW))}
    parts.append((where, number, runs.as_prompt(policy, tokens, **alone)))
  got = runs.as_prompt(policy, jnp.asarray(row), **context)
  for where, number, alone in parts:
    close(got[0, where], alone[number, : len(where)])


def later_steps_see_all_keys(subject: Subject) -> None:
  """Checks that a layer's later outputs depend on neither its prompt nor on cuts."""
  policy = runs.made(subject, "POLICY")
  if not policy_prefill.chooses(policy):
    return
  layer = runs.model().stack.each()
  x = jax.random.normal(jax.random.key(0), (2, runs.ROW, runs.HEADS * runs.SIZE))
  layer = next(iter(layer))[2].mixer
  out = []
  for prompt, cuts in ((None, (2,)), (0, (1, 1))):
    cache, at, later = layer.init_cache(2, runs.ROW), runs.ROW - 2, []
    cache = policies.under(policy, cache, prompt=prompt)
    _, cache = _layer_step(layer, x[:, :at], cache)
    for size in cuts:
      y, cache = _layer_step(layer, x[:, at : at + size], cache)
      later.append(y)
      at += size
    held = cache.k, cache.v, cache.segment_ids
    out.append((jnp.concatenate(later, axis=1), held))
  got, want = out
  close(got, want, "after the prompt")


@jax.jit
def _layer_step(layer, x, cache):
  return layer.step(x, cache)


PREFILL = (
  selects_in_the_prompt,
  selects_in_each_document,
  later_steps_see_all_keys,
)
