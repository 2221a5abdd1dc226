"""Checks of policies that take a budget as a share of the row's keys."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from attnjax.contract.subject import Subject, require
from attnjax.core import policies
from attnjax.core.cache import KeyValueCache
from attnjax.ops import policy_prefill

LENGTH, LAYERS, FRACTIONS = 64, 3, (0.05, 0.1, 0.25, 0.5, 1.0)
_HEADS, _GROUPS, _SIZE = 4, 2, 4


def _budgeted(check):
  """Returns a check that holds for policies without `of_fraction`, too."""

  @functools.wraps(check)
  def checked(subject: Subject) -> None:
    policy = subject.module.Policy()
    if hasattr(policy, "of_fraction"):
      check(policy)

  return checked


@_budgeted
def reads_no_more_than_its_share(policy: Any) -> None:
  """Checks that no choice exceeds the share of the places, where a layer chooses.

  In the mean of the heads that choose; of a prompt's pairs if the policy chooses in it.
  """
  if policy_prefill.chooses(policy):
    for fraction in FRACTIONS[1:]:
      read = policy.of_fraction(fraction, LENGTH).prompt_reads(LENGTH, LAYERS)[0]
      share = fraction * _pairs(LENGTH)
      require(read <= share, f"{policy} reads {read} pairs of a budget of {share:g}")
    return
  draw = np.random.default_rng(0).standard_normal
  q, k = (
    jnp.asarray(draw((2, LENGTH, heads, _SIZE)), jnp.float32)
    for heads in (_HEADS, _GROUPS)
  )
  for fraction in FRACTIONS[1:-1]:
    made = policy.of_fraction(fraction, LENGTH).fitted(LAYERS)
    choices = jax.tree.map(np.asarray, _choices(made, q, k))
    require(not all(c.dense for c in choices), f"{made}: all layers are dense")
    sizes = [c.real.sum(axis=-1).mean(axis=1) for c in choices if not c.dense]
    most = max(size.max() for size in sizes)
    share = fraction * LENGTH
    require(most <= share, f"{made} reads {most} keys of a budget of {share:g}")


@functools.partial(jax.jit, static_argnums=0)
def _choices(policy, q, k):
  held = (_GROUPS, _SIZE), (_GROUPS, _SIZE)
  tokens = KeyValueCache.empty(len(q), LENGTH, *held, jnp.float32, _HEADS)
  cache = dataclasses.replace(policies.under(policy, tokens), policy=policy)
  cache, past = cache.appended(q, k, k, jnp.zeros(q.shape[:2], jnp.int32))
  shared, found = policy.start(len(q), LENGTH), []
  for index in range(LAYERS):
    choice, _, shared = policy.choose(q[:, -1], past, cache.own, shared, index)
    found.append(choice)
  return found


@_budgeted
def reads_more_for_a_larger_share(policy: Any) -> None:
  """Checks that what is read grows with the share, up to all keys for 1."""
  for length in (1, 7, LENGTH, 1000):
    made = [policy.of_fraction(f, length).fitted(LAYERS) for f in FRACTIONS]
    if policy_prefill.chooses(policy):
      found = [one.prompt_reads(length, LAYERS)[0] for one in made]
      whole = _pairs(length)
    else:
      found = [one.reads(length, LAYERS)[0] for one in made]
      whole = LAYERS * length
    require(found == sorted(found), f"{found} keys for the shares {FRACTIONS}")
    require(found[-1] == whole, f"{found[-1]} keys of {whole} for the share 1")
    require(length < LENGTH or found[0] < whole, f"{made[0]} leaves no key out")


@_budgeted
def keeps_its_other_options(policy: Any) -> None:
  """Checks that a share makes a policy of the same class, and refuses others."""
  made = policy.of_fraction(0.5, LENGTH)
  require(type(made) is type(policy), f"{type(made)} of {type(policy)}")
  for fraction, length in ((0.0, LENGTH), (1.5, LENGTH), (0.5, 0)):
    try:
      policy.of_fraction(fraction, length)
    except ValueError as error:
      wrong = fraction if fraction != 0.5 else length
      require(f" = {wrong}" in str(error), f"{error}")
    else:
      raise AssertionError(f"fraction = {fraction}, length = {length} is not refused")


def _pairs(length: int) -> float:
  return LAYERS * length * (length + 1) / 2


BUDGETS = (
  reads_no_more_than_its_share,
  reads_more_for_a_larger_share,
  keeps_its_other_options,
)
