"""Phi, the normal distribution function, which GELU needs and NumPy does not have."""

import numpy as np

from tinyzo.dtypes import Array
from tinyzo.engine.noise import polynomial

# Phi(x) = 1/2 + x P(x^2) / Q(x^2) on |x| <= 5.5, within 7e-9, fitted for tinyzo. Beyond 5.5 a
# float32 Phi is 0 or 1.
PHI_LIMIT = 5.5
PHI_P = (0.39894223462721035, 0.03385265997064125, 0.004677261233943165,
         0.00016882578683706924, 6.352116785300932e-06, 2.2749383392528723e-08)  # fmt: skip
PHI_Q = (1.0, 0.25152195303413954, 0.02864587870524476,
         0.0018844454405474056, 7.36475297521632e-05, 1.1975043840867986e-06)  # fmt: skip


def normal_distribution(x: Array) -> Array:
    """Phi(x) of the standard normal distribution, within 3e-7 in float32."""
    t = np.clip(x, np.float32(-PHI_LIMIT), np.float32(PHI_LIMIT))
    square = t * t
    t *= polynomial(PHI_P, square)
    t /= polynomial(PHI_Q, square)
    t += np.float32(0.5)
    return t
