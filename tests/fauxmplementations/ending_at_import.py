"""An adapter that ends its process with exit status 0 when it is imported."""

import os

os._exit(0)
