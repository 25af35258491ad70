"""The mathematics: equations, tensors, derivation, rewriting and display. Knows nothing of machines."""
