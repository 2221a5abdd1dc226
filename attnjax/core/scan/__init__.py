"""Prefix softmax: at every token, the softmax-weighted mean of the values so far.

  lse[k] = log sum_{i <= k} exp(s[i])
  out[k] = sum_{i <= k} exp(s[i] - lse[k]) v[i]

Leo Feng et al. Attention as an RNN. 2024. arXiv:2405.13956. The paper scans elements
(m, u, w) with A + B = (m = max(m_A, m_B), u_A e^(m_A - m) + u_B e^(m_B - m), the same
of w). Here they are (lse, out) = (m + log u, w / u): the same element with u = 1,
whose numbers do not depend on which maximum was taken, so that each has a derivative.

Given lse, all is linear in the values, with weights that are at most 1:

  out[k] = exp(lse[k-1] - lse[k]) out[k-1] + exp(s[k] - lse[k]) v[k]

With do and dlse the cotangents and delta = do . out - dlse, the way back is

  A[i] = do[i] + exp(lse[i] - lse[i+1]) A[i+1],   b[i] = delta[i] + (the same) b[i+1]
  dv[i] = exp(s[i] - lse[i]) A[i],                ds[i] = v[i] . dv[i] - (the same) b[i]

and (A, b) after the last token are the cotangents of the state: linear time, and no
more is kept than s, v, lse and out. Sums are float32 (float64 for float64).

Axes: B batch, T tokens, N heads, E value size.
"""

from attnjax.core.scan.definition import reference
from attnjax.core.scan.forms import FORMS, fastest
from attnjax.core.scan.prefix import Form, Weights, across, beginnings, check, prefix
from attnjax.core.scan.state import LOWEST, State, combine, step

__all__ = [
  "FORMS",
  "LOWEST",
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
