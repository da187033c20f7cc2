"""For those who quantise next: what 8 bits leave of a model, and which free scales leave more.

``extents`` measures a weight's channels; ``channel_ranges`` and ``growth`` tell what they would cost;
``equalize`` sets what the algebra leaves free (``freedoms``) so that there is less ``noise``, which it knows
from ``sensitivities``, ``moments`` and ``pairs``.
"""
