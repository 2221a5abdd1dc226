"""Prefix softmax: at every token, the softmax-weighted mean of the values so far.

  top[k]   = max_{i <= k} s[i]          total[k] = sum_{i <= k} exp(s[i] - top[k])
  out[k]   = sum_{i <= k} exp(s[i] - top[k]) v[i] / total[k],  lse = top + log(total)

Leo Feng et al. Attention as an RNN. 2024. arXiv:2405.13956. The paper scans elements
(m, u, w) with A + B = (m = max(m_A, m_B), u_A e^(m_A - m) + u_B e^(m_B - m), w like
u). Here they are (top, total, out) = (m, u, w / u). The maximum is over the
tokens that a token sees, never over its future or another document: their scores,
however large, take no digit from it.

Given top and total, all is linear in the values, with weights that are at most 1:

  own[k]  = exp(s[k] - top[k]) / total[k]
  keep[k] = exp(top[k-1] - top[k]) total[k-1] / total[k]
  out[k]  = keep[k] out[k-1] + own[k] v[k]

With do and dlse the cotangents and delta = do . out - dlse, the backward pass is

  A[i] = do[i] + keep[i+1] A[i+1],   b[i] = delta[i] + keep[i+1] b[i+1]
  dv[i] = own[i] A[i],               ds[i] = v[i] . dv[i] - own[i] b[i]

and (A, b) after the last token are the cotangents of the state: linear time, and no
more is kept than s, v, top, total and out. Sums are float32 (float64 for float64).

Axes: B batch, T tokens, N heads, E value size.
"""

from attnjax.core.recurrence.prefix.definition import reference
from attnjax.core.recurrence.prefix.forms import FORMS, fastest
from attnjax.core.recurrence.prefix.prefix import (
  SAVED,
  Form,
  Weights,
  across,
  beginnings,
  check,
  prefix,
)
from attnjax.core.recurrence.prefix.state import State, combine, step

__all__ = [
  "FORMS",
  "SAVED",
  "Form",
  "State",
  "Weights",
  "across",
  "beginnings",
  "check",
  "combine",
  "fastest",
  "prefix",
  "reference",
  "step",
]
