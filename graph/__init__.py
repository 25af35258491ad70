"""The mathematics: equations, tensors, derivation, rewriting and display. Knows nothing of machines."""

import time

READ = time.time()  # when this process began to read the source: what is younger is not what runs
